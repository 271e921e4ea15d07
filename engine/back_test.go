package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// moody is a layer that fails at one of its next Applies, without naming an object.
type moody struct {
	*enginetest.Host
	mu sync.Mutex
	in int // calls until then; 0 for never
}

func (m *moody) Apply(ctx context.Context, have, want *plan.Plan) error {
	m.mu.Lock()
	m.in--
	fails := m.in == 0
	m.mu.Unlock()
	if fails {
		return errBroken
	}
	return m.Host.Apply(ctx, have, want)
}

func (m *moody) failIn(calls int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.in = calls
}

// moodyRig is a rig whose layers ahead of the links are moody.
func moodyRig(t *testing.T) (*rig, *moody) {
	t.Helper()
	r := newRig(t)
	ahead := &moody{Host: r.layers[0]}
	r.over(ahead, r.layers[1])
	return r, ahead
}

// TestAWayBackThatFailsIsGoneLater: the first layer fails when it is to undo what another
// could not do.
func TestAWayBackThatFailsIsGoneLater(t *testing.T) {
	r, ahead := moodyRig(t)
	r.must(addNetwork(1))
	before := r.world()
	r.layers[2].Break(veth(1, 2), errBroken)
	ahead.failIn(2)
	if err := r.do(addEndpoint(1, 2)); !errors.Is(err, errBroken) {
		t.Fatalf("got %v", err)
	}
	r.layers[2].Break(veth(1, 2), nil)
	run(t, r.engine)
	waitFor(t, "the half-made endpoint to go", func() bool {
		return len(r.engine.Now().Drift) == 0 && !strings.Contains(r.world(), veth(1, 2))
	})
	r.same(before)
}

// TestWhatTheHostHasBecomeIsFollowedInTheEnd although a layer failed at first.
func TestWhatTheHostHasBecomeIsFollowedInTheEnd(t *testing.T) {
	r, ahead := moodyRig(t)
	r.must(addNetwork(1))
	without6 := func(text string) bool { return !strings.Contains(text, "disable_ipv6") }
	ahead.failIn(1)
	r.layers[0].Become(plan.Host{IPv6: false})
	run(t, r.engine)
	r.engine.Wake()
	for i, l := range r.layers {
		waitFor(t, "each layer to follow", func() bool { return without6(l.String()) })
		if t.Failed() {
			t.Fatalf("layer %d", i)
		}
	}
}

// TestWhatSomebodyElseHasByNowDoesNotComeBack with a change that fails.
func TestWhatSomebodyElseHasByNowDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addNetwork(2), addEndpoint(1, 2), addEndpoint(2, 2), publish(80))
		links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
		r.over(r.layers[0], links)
		failing := r.begin(1, publish(81))
		<-links.reached
		taker := r.begin(2, func(s *spec.State) error {
			return s.Publish(id("a", 2), id("e", 2002), []spec.Port{{Proto: spec.TCP, HostPort: 80, ContainerPort: 80, Count: 1}}, false)
		})
		synctest.Wait()
		r.layers[2].Break(veth(1, 2), errBroken)
		close(links.free)
		if err := <-failing; !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
		r.layers[2].Break(veth(1, 2), nil)
		if err := <-taker; err != nil {
			t.Error(err)
		}
		run(t, r.engine)
		r.engine.Wake()
		<-time.After(time.Second)
		synctest.Wait()
		for i, l := range r.layers {
			if n := strings.Count(l.String(), "0.0.0.0:80 to "); n != 1 {
				t.Errorf("layer %d leads port 80 to %d containers:\n%s", i, n, l)
			}
		}
		if drift, err := r.engine.Check(t.Context()); err != nil || len(drift) > 0 {
			t.Errorf("drift %v, %v", drift, err)
		}
		want := r.engine.Now().Plan.String()
		if got := plan.New(*at(r.engine), r.engine.Now().Plan.Host).String(); got != want {
			t.Errorf("the plan is not that of the State:\n%s\nwant\n%s", want, got)
		}
	})
}

// TestTwoDriftsOfOneNetworkAreBothTold although its last change is done.
func TestTwoDriftsOfOneNetworkAreBothTold(t *testing.T) {
	r := newRig(t)
	for _, change := range []func(*spec.State) error{addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3)} {
		if err := r.engine.Do(t.Context(), id("a", 1), change); err != nil {
			t.Fatal(err)
		}
	}
	r.layers[1].Delete(veth(1, 2))
	r.layers[1].Delete(veth(1, 3))
	if drift, err := r.engine.Check(t.Context()); err != nil || len(drift) != 2 {
		t.Errorf("drift %v, %v", drift, err)
	}
}
