package engine_test

import (
	"context"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// TestNobodyWaitsForTheMendOfAnotherNetwork which does not come to an end: neither do
// requests, nor who mends others, buries the dead and follows what the host becomes.
func TestNobodyWaitsForTheMendOfAnotherNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		r.must(addNetwork(3), addEndpoint(2, 2), addEndpoint(2, 3))
		r.must(func(s *spec.State) error { return s.Join(id("a", 2), id("e", 2003), "/ns") })
		run(t, r.engine)
		soon := func() {
			r.engine.Wake()
			<-time.After(2 * time.Second)
			synctest.Wait()
		}
		r.layers[1].Delete(bridge(1))
		soon()
		if len(links.reached) != 1 {
			t.Fatalf("the network is being mended %d times", len(links.reached))
		}
		r.must(addEndpoint(2, 4), removeEndpoint(2, 2), addNetwork(4))
		r.layers[1].Delete(bridge(3))
		for _, l := range r.layers {
			l.Delete(veth(2, 3)) // which went with its sandbox
		}
		r.layers[1].Put("link somebody's")
		soon()
		r.layers[0].Become(plan.Host{IPv6: false})
		soon()
		for i, l := range r.layers {
			text := l.String()
			for n := 2; n <= 4; n++ {
				if _, line, there := strings.Cut(text, bridge(n)+" "); !there || strings.Contains(strings.SplitN(line, "\n", 2)[0], "disable_ipv6") {
					t.Errorf("layer %d has not what network %d should have:\n%s", i, n, text)
				}
			}
			if strings.Contains(text, veth(2, 3)) || strings.Contains(text, "somebody's") {
				t.Errorf("layer %d has what should have gone:\n%s", i, text)
			}
		}
		if _, _, err := at(r.engine).Endpoint(id("a", 2), id("e", 2003)); err == nil {
			t.Error("the dead was not buried")
		}
		if n := len(links.reached); n != 1 {
			t.Errorf("one network is being mended or changed %d times at once", n)
		}
		close(links.free)
		soon()
		if drift, err := r.engine.Check(t.Context()); err != nil || len(drift) > 0 || !strings.Contains(r.layers[1].String(), bridge(1)) {
			t.Errorf("in the end: %v, %v, layer of links:\n%s", drift, err, r.layers[1])
		}
	})
}

// checked counts how often a layer is asked.
type checked struct {
	*slow
	checks atomic.Int32
}

func (c *checked) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	c.checks.Add(1)
	return c.slow.Check(ctx, want)
}

// TestWhatIsBeingChangedIsLookedAtAgainWhenItIsDone and not all the while.
func TestWhatIsBeingChangedIsLookedAtAgainWhenItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, slow := slowRig(t)
		links := &checked{slow: slow}
		r.over(r.layers[0], links)
		run(t, r.engine)
		held := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		links.Delete(bridge(1))
		r.engine.Wake()
		<-time.After(10 * time.Second)
		synctest.Wait()
		if n := links.checks.Load(); n > 2 {
			t.Errorf("it was looked at %d times in ten seconds", n)
		}
		close(links.free)
		if err := <-held; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !strings.Contains(links.String(), bridge(1)) {
			t.Error("what was lost meanwhile was not mended")
		}
	})
}

// uplinked is a layer of links that is told of one host's uplinks only when it may be.
type uplinked struct {
	*enginetest.Host
	late    string
	reached chan struct{}
	free    chan struct{}
	told    atomic.Pointer[plan.Plan]
}

func (u *uplinked) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have == nil || !reflect.DeepEqual(have.Uplinks, want.Uplinks) {
		if len(want.Uplinks) > 0 && want.Uplinks[0].Name == u.late {
			close(u.reached)
			<-u.free
		}
		u.told.Store(want)
	}
	return u.Host.Apply(ctx, have, want)
}

// TestTheNewestUplinksAreToldLast although an older change comes to the links after a newer
// one.
func TestTheNewestUplinksAreToldLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1))
		links := &uplinked{Host: r.layers[1], late: "eth1", reached: make(chan struct{}), free: make(chan struct{})}
		r.over(r.layers[0], links)
		run(t, r.engine)
		become := func(name string) {
			r.layers[0].Become(plan.Host{IPv6: true, Uplinks: []plan.HostLink{{Name: name}}})
			r.engine.Wake()
			<-time.After(time.Second)
			synctest.Wait()
		}
		become("eth1")
		<-links.reached
		become("eth2")
		if got := links.told.Load().Uplinks; len(got) == 0 || got[0].Name != "eth2" {
			t.Fatalf("the newer ones were not told: %v", got)
		}
		close(links.free)
		synctest.Wait()
		if got := links.told.Load().Uplinks; got[0].Name != "eth2" {
			t.Errorf("told last: %v", got)
		}
	})
}

var _ engine.Links = (*slow)(nil)
