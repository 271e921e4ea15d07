package engine_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// TestARemovalIsAnsweredBeforeItsLinksGo and whoever needs what they have waits for that, as
// the network does whose they are; no other network does.
func TestARemovalIsAnsweredBeforeItsLinksGo(t *testing.T) {
	for name, row := range map[string]struct {
		remove, need func(*spec.State) error
		link         string
		leaving      bool
	}{
		"a network":   {removeNetwork(1), addNetworkOn(4, 1), bridge(1), true}, // whose container has gone
		"an endpoint": {removeEndpoint(1, 2), addEndpoint(1, 3), veth(1, 2), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.must(addNetwork(1), addNetwork(2), addEndpoint(1, 2))
				if row.leaving {
					r.must(removeEndpoint(1, 2))
				}
				links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
				r.over(r.layers[0], links)

				r.must(row.remove)
				<-links.reached
				for i, want := range []bool{false, true, false} {
					if got := strings.Contains(r.layers[i].String(), row.link); got != want {
						t.Errorf("when it is answered, layer %d has it: %t, want %t", i, got, want)
					}
				}
				if got := len(r.engine.Leaving()) > 0; got != row.leaving {
					t.Errorf("leaving are %q", r.engine.Leaving())
				}
				r.must(addEndpoint(2, 2)) // waits for nobody
				need := r.begin(4, row.need)
				synctest.Wait()
				select {
				case err := <-need:
					t.Errorf("it did not wait for what it needs: %v", err)
				default:
				}
				close(links.free)
				if err := <-need; err != nil {
					t.Error(err)
				}
				r.engine.Await(t.Context())
				if strings.Contains(r.layers[1].String(), row.link) || len(r.engine.Leaving()) > 0 {
					t.Errorf("left are %q:\n%s", r.engine.Leaving(), r.layers[1])
				}
			})
		})
	}
}

// TestLinksThatOthersMayWantGoBeforeTheAnswer for they do not wait for our turn.
func TestLinksThatOthersMayWantGoBeforeTheAnswer(t *testing.T) {
	for name, add := range map[string][]func(*spec.State) error{
		"a bridge whose name a person chose":       {addNetwork(2), addNetworkLike(1, func(n *spec.Network) { n.Bridge = "lan" })},
		"a network with containers":                {addNetwork(2), addNetwork(1), addEndpoint(1, 2)},
		"the last one that needs the host's links": {addNetwork(1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.layers[0].Become(plan.Host{IPv6: true, Uplinks: []plan.HostLink{{Name: "eth0"}}})
				r.restart()
				r.must(add...)
				links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
				r.over(r.layers[0], links)
				removed := r.begin(1, removeNetwork(1))
				<-links.reached
				synctest.Wait()
				if len(removed) > 0 {
					t.Error("it is answered")
				}
				close(links.free)
				if err := <-removed; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestALinkThatDoesNotGoIsLeftToRun since its removal has been answered.
func TestALinkThatDoesNotGoIsLeftToRun(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	r.layers[1].Break(bridge(1), errBroken)
	r.must(removeNetwork(1))
	r.engine.Await(t.Context())
	wantDrift(t, r.engine, bridge(1))
	r.layers[1].Break(bridge(1), nil)
	run(t, r.engine)
	waitFor(t, "the bridge to go", func() bool {
		return len(r.engine.Now().Drift) == 0 && !strings.Contains(r.layers[1].String(), bridge(1))
	})
}
