package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

var errBroken = errors.New("broken on purpose")

// inMemory is a firewall in memory. It may have more trouble than its host.
type inMemory struct {
	*enginetest.Host
	trouble error
}

func (m *inMemory) Apply(ctx context.Context, have, want *plan.Plan) error {
	return errors.Join(m.trouble, m.Host.Apply(ctx, have, want))
}

func (m *inMemory) Left(context.Context) ([]plan.Drift, error) { return nil, nil }

func network(name string, third byte) func(*spec.State) error {
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, third, 0}), 24)
	return func(s *spec.State) error {
		return s.AddNetwork(&spec.Network{
			ID: spec.ID(strings.Repeat(name, 24)), InterfacePrefix: "eth",
			Pools: []spec.Pool{{Prefix: subnet, Gateway: subnet.Addr().Next()}},
		})
	}
}

// TestWhatReliesOnTheDropsWaitsForThem whatever it is that keeps them from standing, and
// not for one network's trouble.
func TestWhatReliesOnTheDropsWaitsForThem(t *testing.T) {
	owner := plan.Owner{Network: spec.ID(strings.Repeat("a", 24))}
	of := func(owner plan.Owner) error {
		return &plan.ObjectError{Owner: owner, Object: "a rule", Err: errBroken}
	}
	for _, row := range []struct {
		name  string
		err   error
		waits bool
	}{
		{"nothing", nil, false},
		{"one network's rule", of(owner), false},
		{"two networks' rules", errors.Join(of(owner), of(plan.Owner{Network: "b"})), false},
		{"the firewall as a whole", errBroken, true},
		{"a rule that all have in common", of(plan.Owner{}), true},
		{"one of these beside a network's", errors.Join(of(owner), errors.Join(of(plan.Owner{}), of(owner))), true},
		{"all beside a network's", errors.Join(of(owner), fmt.Errorf("a table: %w", errBroken)), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			log, _ := logtest.NewNullLogger()
			log.SetLevel(logrus.PanicLevel)
			chosen, accepts := &inMemory{Host: enginetest.NewHost(), trouble: row.err}, enginetest.NewHost()
			f := &Firewall{Name: "nftables", backend: chosen}
			store := &enginetest.Store{}
			state := spec.State{}
			if err := errors.Join(network("a", 0)(&state), store.Save(spec.State{}, state)); err != nil {
				t.Fatal(err)
			}
			e := engine.New(store, accepts, engine.Layers{Ahead: []engine.Layer{f}, Links: enginetest.NewHost(), Behind: []engine.Layer{f.Behind("accepts", accepts)}}, nil, log)
			if err := e.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if waits := accepts.String() == ""; waits != row.waits {
				t.Errorf("it waits: %t, want %t", waits, row.waits)
			}
			says := strings.Contains(fmt.Sprint(e.Now().Drift), "left as found until nftables stands")
			if says != row.waits {
				t.Errorf("drift: %v", e.Now().Drift)
			}
			// The next change looks, as the next look of the reconciler would.
			chosen.trouble = nil
			if err := e.Do(t.Context(), "", network("b", 1)); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(accepts.String(), "link dbr"); got != 2 {
				t.Errorf("bridges behind the firewall that stands now: %d\n%s", got, accepts)
			}
			if err := e.Remove(t.Context()); err != nil || accepts.String() != "" {
				t.Errorf("removal waits for nothing: %v\n%s", err, accepts)
			}
		})
	}
}
