package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// slow is a layer of links that does not come back from one network until it is told to.
type slow struct {
	*enginetest.Host
	network spec.ID
	reached chan struct{} // gets one each time that it is held
	free    chan struct{}
}

func (s *slow) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have != nil {
		for c := range tree.Diff(have.Networks, want.Networks) {
			if c.Key == s.network {
				s.reached <- struct{}{}
				<-s.free
			}
		}
	}
	return s.Host.Apply(ctx, have, want)
}

// Mend takes as long.
func (s *slow) Mend(ctx context.Context, want *plan.Plan, network spec.ID) error {
	if network == s.network {
		s.reached <- struct{}{}
		<-s.free
	}
	return s.Host.Mend(ctx, want, network)
}

// slowRig is a rig whose links of network 1 take until free is closed.
func slowRig(t *testing.T) (*rig, *slow) {
	t.Helper()
	r := newRig(t)
	r.must(addNetwork(1), addNetwork(2))
	links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
	r.over(r.layers[0], links)
	return r, links
}

// over puts other layers in the place of the rig's first and of its links.
func (r *rig) over(ahead engine.Layer, links engine.Links) {
	r.t.Helper()
	log, _ := logtest.NewNullLogger()
	r.engine = engine.New(r.store, r.layers[0], layered(ahead, links, r.layers[2]), &r.ports, log)
	if err := r.engine.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// begin makes a change of network 1, and returns what its error will be.
func (r *rig) begin(network int, change func(*spec.State) error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- r.engine.Do(r.t.Context(), id("a", network), change) }()
	return ended
}

func TestNobodyWaitsForAnotherNetworksLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		run(t, r.engine)
		held := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		next := r.begin(1, addEndpoint(1, 3))
		for _, change := range []func(*spec.State) error{addNetwork(3), addEndpoint(2, 2), addEndpoint(3, 2), removeEndpoint(2, 2)} {
			r.must(change)
		}
		// Nor does the reconciler.
		r.layers[1].Delete(bridge(2))
		r.layers[0].Delete(bridge(2))
		r.engine.Wake()
		<-time.After(time.Second)
		synctest.Wait()
		for i, l := range r.layers[:2] {
			if !strings.Contains(l.String(), bridge(2)) {
				t.Errorf("layer %d: the bridge of another network was not mended", i)
			}
		}
		select {
		case err := <-held:
			t.Errorf("the held change came back: %v", err)
		case err := <-next:
			t.Errorf("the next change of the same network came back: %v", err)
		default:
		}
		close(links.free)
		for _, ended := range []<-chan error{held, next} {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if drift, err := r.engine.Check(t.Context()); err != nil || len(drift) > 0 {
			t.Errorf("drift %v, %v", drift, err)
		}
	})
}

func TestRepeatWaitsForWhatItRepeats(t *testing.T) {
	for name, broken := range map[string]error{"that is made": nil, "that fails": errBroken} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, links := slowRig(t)
				first := r.begin(1, addEndpoint(1, 2))
				<-links.reached
				repeat := r.begin(1, addEndpoint(1, 2))
				synctest.Wait()
				select {
				case err := <-repeat:
					t.Fatalf("it was answered before anything was made: %v", err)
				default:
				}
				r.layers[2].Break(veth(1, 2), broken)
				close(links.free)
				for _, ended := range []<-chan error{first, repeat} {
					if err := <-ended; !errors.Is(err, broken) {
						t.Errorf("got %v, want %v", err, broken)
					}
				}
				if got := strings.Contains(r.world(), veth(1, 2)); got != (broken == nil) {
					t.Errorf("it is there: %t", got)
				}
			})
		})
	}
}

func TestWhatTakesWhatAnotherChangeGivesUpWaitsForThat(t *testing.T) {
	gives := func(change func(*spec.State) error) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) { t.Helper(); r.must(change) }
	}
	publishOn := func(n, ep int, port uint16) func(*spec.State) error {
		return func(s *spec.State) error {
			return s.Publish(id("a", n), id("e", 1000*n+ep), []spec.Port{{Proto: spec.TCP, HostPort: port, ContainerPort: 80, Count: 1}}, false)
		}
	}
	for name, row := range map[string]struct {
		before      func(*testing.T, *rig)
		give, take  func(*spec.State) error
		takesFrom   int
		independent bool
	}{
		"a port":         {gives(publishOn(1, 2, 80)), removeEndpoint(1, 2), publishOn(2, 2, 80), 2, false},
		"another port":   {gives(publishOn(1, 2, 80)), removeEndpoint(1, 2), publishOn(2, 2, 81), 2, true},
		"a subnet":       {gives(addEndpoint(1, 3)), removeNetwork(1), addNetworkOn(4, 1), 4, false},
		"another subnet": {gives(addEndpoint(1, 3)), removeNetwork(1), addNetworkOn(4, 5), 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.must(addNetwork(1), addNetwork(2), addEndpoint(1, 2), addEndpoint(2, 2))
				row.before(t, r)
				links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
				r.over(r.layers[0], links)
				give := r.begin(1, row.give)
				<-links.reached
				take := r.begin(row.takesFrom, row.take)
				synctest.Wait()
				select {
				case err := <-take:
					if !row.independent || err != nil {
						t.Errorf("it did not wait: %v", err)
					}
				default:
					if row.independent {
						t.Error("it waits for what it does not need")
					}
				}
				close(links.free)
				if err := <-give; err != nil {
					t.Error(err)
				}
				if !row.independent {
					if err := <-take; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestAFailedChangeTakesBackNothingOfOthers which were made since it was planned.
func TestAFailedChangeTakesBackNothingOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		failing := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		next := r.begin(1, addEndpoint(1, 3))
		synctest.Wait()
		last := r.begin(1, addEndpoint(1, 4))
		r.must(addNetwork(3), addEndpoint(3, 2))
		r.layers[2].Break(veth(1, 2), errBroken)
		close(links.free)
		if err := <-failing; !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(<-next, <-last); err != nil {
			t.Error(err)
		}
		r.layers[2].Break(veth(1, 2), nil)
		want := newRig(t)
		want.must(addNetwork(1), addNetwork(2), addEndpoint(1, 3), addEndpoint(1, 4), addNetwork(3), addEndpoint(3, 2))
		r.same(want.world())
	})
}

// TestWhatReliesOnAChangeThatFailsIsRefused by name, although all was there when it was
// asked for. Taking away succeeds all the same.
func TestWhatReliesOnAChangeThatFailsIsRefused(t *testing.T) {
	join := func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1002), "/ns") }
	const gone, outside = "endpoint e00000001002 of network a00000000001: not found", "endpoint e00000001002 of network a00000000001: invalid: it is in no container"
	for name, row := range map[string]struct {
		before        []func(*spec.State) error
		fails, relies func(*spec.State) error
		want          string // "" for success
	}{
		"joining an endpoint that cannot be made":    {nil, addEndpoint(1, 2), join, gone},
		"publishing for it":                          {nil, addEndpoint(1, 2), publish(80), gone},
		"removing it":                                {nil, addEndpoint(1, 2), removeEndpoint(1, 2), ""},
		"adding another one":                         {nil, addEndpoint(1, 2), addEndpoint(1, 3), ""},
		"publishing for one that joins no container": {[]func(*spec.State) error{addEndpoint(1, 2)}, join, publish(80), outside},
		"unpublishing for it":                        {[]func(*spec.State) error{addEndpoint(1, 2), publish(80)}, join, unpublish, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.must(addNetwork(1))
				r.must(row.before...)
				links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
				r.over(r.layers[0], links)
				fails := r.begin(1, row.fails)
				<-links.reached
				relies := r.begin(1, row.relies)
				synctest.Wait()
				r.layers[2].Break(veth(1, 2), errBroken)
				links.free <- struct{}{}
				<-links.reached // on the way back
				r.layers[2].Break(veth(1, 2), nil)
				close(links.free)
				if err := <-fails; !errors.Is(err, errBroken) {
					t.Errorf("got %v", err)
				}
				err := <-relies
				if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want %q", err, row.want)
				}
				want := newRig(t)
				want.must(addNetwork(1))
				want.must(row.before...)
				if row.want == "" {
					want.must(row.relies)
				}
				r.same(want.world())
			})
		})
	}
}

// counting is a layer that tells how often it was called, and does not come back from the
// first time until it is told to.
type counting struct {
	*enginetest.Host
	mu    sync.Mutex
	calls int
	free  chan struct{}
	// refused makes every plan fail that has this network.
	refused spec.ID
	grumble error // in addition to what else goes wrong
}

func (c *counting) Apply(ctx context.Context, have, want *plan.Plan) error {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	<-c.free
	if _, planned := want.Networks.Get(c.refused); planned {
		return errBroken
	}
	return errors.Join(c.Host.Apply(ctx, have, want), c.grumble)
}

// queued has many networks wait for the layers ahead of the links, of which one is broken, 0
// for none, and returns how often those were called.
func queued(t *testing.T, many, broken int, breakIt func(*counting)) int {
	t.Helper()
	r := newRig(t)
	firewall := &counting{Host: enginetest.NewHost(), free: make(chan struct{}, 1)}
	firewall.free <- struct{}{}
	r.over(firewall, r.layers[1])
	breakIt(firewall)
	firewall.calls = 0
	var all sync.WaitGroup
	add := func(n int) {
		all.Go(func() {
			if err := r.engine.Do(t.Context(), id("a", n), addNetwork(n)); errors.Is(err, errBroken) != (n == broken) {
				t.Errorf("network %d: %v", n, err)
			}
		})
	}
	add(1)
	waitFor(t, "the first to be under way", func() bool {
		firewall.mu.Lock()
		defer firewall.mu.Unlock()
		return firewall.calls == 1
	})
	for n := 2; n <= many; n++ {
		add(n)
	}
	waitFor(t, "the others to wait", func() bool { return r.engine.WaitingAhead() == many-1 })
	close(firewall.free)
	all.Wait()
	if got := at(r.engine).Networks.Len(); got != many-min(broken, 1) {
		t.Errorf("%d networks", got)
	}
	for n := 1; n <= many; n++ {
		if got := strings.Contains(firewall.String(), bridge(n)); got == (n == broken) {
			t.Errorf("network %d is there: %t", n, got)
		}
	}
	return firewall.calls
}

// TestThoseWhoWaitForTheFirewallAreTakenAlong and one of them fails alone for what goes wrong
// with its object.
func TestThoseWhoWaitForTheFirewallAreTakenAlong(t *testing.T) {
	calls := queued(t, 20, 7, func(c *counting) { c.Break(bridge(7), errBroken) })
	// One for the first, two for the rest, of which one fails, and one to take that back.
	if calls != 4 {
		t.Errorf("20 changes at once were %d transactions", calls)
	}
}

// TestWhatFailsWithoutANameFailsAlone among those who are taken along.
func TestWhatFailsWithoutANameFailsAlone(t *testing.T) {
	queued(t, 5, 3, func(c *counting) { c.refused = id("a", 3) })
}

// TestWhatIsNobodysFailsNobody though it goes wrong each time, as where firewalld is silent.
func TestWhatIsNobodysFailsNobody(t *testing.T) {
	silent := &plan.ObjectError{Object: "zone docker", Err: errors.New("no answer")}
	queued(t, 5, 0, func(c *counting) { c.grumble = silent })
	queued(t, 5, 3, func(c *counting) { c.refused, c.grumble = id("a", 3), silent })
}

func removeNetwork(n int) func(*spec.State) error { //nolint:unparam // it is read beside addNetwork
	return func(s *spec.State) error {
		s.RemoveNetwork(id("a", n))
		return nil
	}
}

// addNetworkOn adds network n with the subnet of network m.
func addNetworkOn(n, m int) func(*spec.State) error {
	return addNetworkLike(m, func(network *spec.Network) { network.ID = id("a", n) })
}

// addNetworkLike adds a network that differs in something from network m.
func addNetworkLike(m int, differ func(*spec.Network)) func(*spec.State) error {
	return func(s *spec.State) error {
		var other spec.State
		if err := addNetwork(m)(&other); err != nil {
			return err
		}
		network, err := other.Network(id("a", m))
		if err != nil {
			return err
		}
		added := *network
		added.Key = ""
		differ(&added)
		return s.AddNetwork(&added)
	}
}

// TestCheckWaitsForWhatIsUnderWay but not for long: who asks whether all is as planned is
// not told so while the host is still as it was.
func TestCheckWaitsForWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		held := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		begun := time.Now()
		if _, err := r.engine.Check(t.Context()); err != nil || time.Since(begun) != time.Second {
			t.Errorf("a check beside a change that is stuck took %s, %v", time.Since(begun), err)
		}
		checked := make(chan []plan.Drift)
		go func() {
			drift, _ := r.engine.Check(t.Context())
			checked <- drift
		}()
		synctest.Wait()
		select {
		case drift := <-checked:
			t.Errorf("it did not wait, and found %v", drift)
		default:
		}
		close(links.free)
		if drift := <-checked; len(drift) > 0 {
			t.Errorf("when all was done it found %v", drift)
		}
		if err := <-held; err != nil {
			t.Error(err)
		}
	})
}
