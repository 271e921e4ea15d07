package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// run starts the reconcile clock until the test ends.
func run(t *testing.T, e *engine.Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func TestStartBringsEverythingBack(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), publish(80))
	before := r.world()
	for _, l := range r.layers {
		if err := l.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	r.same(before)
	writes := r.layers[0].Writes()
	r.restart()
	if now := r.layers[0].Writes(); now != writes {
		t.Errorf("a start over a host that is right wrote %d objects", now-writes)
	}
}

func TestStartWithOneBrokenNetworkKeepsTheOthersUp(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addNetwork(2))
	before := r.world()
	r.layers[0].Delete(bridge(1))
	r.layers[0].Delete(bridge(2))
	r.layers[0].Break(bridge(1), errBroken)
	r.restart()
	wantDrift(t, r.engine, bridge(1))
	if !strings.Contains(r.layers[0].String(), bridge(2)) {
		t.Error("the other network is down as well")
	}
	r.layers[0].Break(bridge(1), nil)
	run(t, r.engine) // Start has left word for it
	waitFor(t, "the bridge", func() bool { return len(r.engine.Now().Drift) == 0 })
	r.same(before)
}

func TestStartFailsWhereNothingIsKnown(t *testing.T) {
	for name, breakIt := range map[string]func(*rig){
		"the store does not open": func(r *rig) { r.store.Fail(errBroken) },
		"the host cannot be seen": func(r *rig) { r.layers[0].Fail(errBroken) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			breakIt(r)
			log, _ := logtest.NewNullLogger()
			e := engine.New(r.store, r.layers[0], engine.Layers{}, nil, log)
			if err := e.Start(t.Context()); !errors.Is(err, errBroken) {
				t.Errorf("want the cause, got %v", err)
			}
		})
	}
}

func TestRunMendsWhatAnEventTellsOf(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2))
	before := r.world()
	run(t, r.engine)
	r.layers[0].Delete(bridge(1))
	r.layers[1].Delete(veth(1, 2))
	drift, err := r.engine.Check(t.Context())
	if err != nil || len(drift) != 2 {
		t.Errorf("want two drifts, got %v, %v", drift, err)
	}
	r.engine.Wake()
	waitFor(t, "the mend", func() bool {
		return strings.Contains(r.layers[0].String(), bridge(1)) && strings.Contains(r.layers[1].String(), veth(1, 2))
	})
	r.same(before)
}

func TestRunFollowsTheHost(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	run(t, r.engine)
	r.layers[0].Become(plan.Host{IPv6: true, Uplinks: []plan.HostLink{{Name: "eth7"}}})
	r.engine.Wake()
	waitFor(t, "the new uplink in the plan", func() bool {
		return strings.Contains(r.engine.Now().Plan.String(), "eth7")
	})
}

func TestUndoneChangeThatCouldNotBeSavedIsSavedLater(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	before := r.world()
	// The layer fails, and with it the store, so the change stays in the store.
	r.layers[0].Break(bridge(2), errBroken)
	r.layers[2].Break(bridge(2), errBroken)
	failing := &failAfter{Store: r.store, left: 1}
	log, _ := logtest.NewNullLogger()
	r.engine = engine.New(failing, r.layers[0], layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
	if err := r.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.do(addNetwork(2)); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "undo: save") {
		t.Errorf("want both errors, got %v", err)
	}
	failing.mend()
	run(t, r.engine) // the failure has left word for it
	waitFor(t, "the store to hold the State again", func() bool {
		stored, err := r.store.Load()
		return err == nil && stored.Networks == r.engine.Now().State.Networks
	})
	r.same(before)
}

// failAfter is a store that fails after a number of saves.
type failAfter struct {
	*enginetest.Store
	mu   sync.Mutex
	left int
}

func (f *failAfter) Save(before, after spec.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left < 0 {
		return errBroken
	}
	return f.Store.Save(before, after)
}

func (f *failAfter) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = 1 << 30
}

func TestRunBuriesWhoDiedWithoutAWord(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3), publish(80))
	for _, ep := range []int{2, 3} {
		r.must(func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1000+ep), "/ns") })
	}
	run(t, r.engine)
	for _, l := range r.layers {
		l.Delete(veth(1, 2))
	}
	r.engine.Wake()
	waitFor(t, "the funeral", func() bool {
		_, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002))
		return errors.Is(err, spec.ErrNotFound)
	})
	if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1003)); err != nil {
		t.Errorf("the living went along: %v", err)
	}
}

// TestRunBuriesWhoDiedWhileOthersOfTheNetworkCame though their change is under way when he
// looks, and nothing wakes him after it.
func TestRunBuriesWhoDiedWhileOthersOfTheNetworkCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2))
		r.must(func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1002), "/ns") })
		links := &slow{r.layers[1], id("a", 1), make(chan struct{}, 100), make(chan struct{})}
		peer := strings.TrimPrefix(strings.Replace(veth(1, 2), "dbv", "dbp", 1), "link ")
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(r.store, &withLink{r.layers[0], peer, false}, layered(r.layers[0], links, r.layers[2]), nil, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, r.engine)
		synctest.Wait()
		held := r.begin(1, addEndpoint(1, 3))
		<-links.reached
		links.Delete(veth(1, 2))
		links.Break(veth(1, 2), errBroken) // no pair is made anew that a container had
		r.engine.Wake()
		<-time.After(time.Second)
		close(links.free)
		if err := <-held; err != nil {
			t.Error(err)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); !errors.Is(err, spec.ErrNotFound) {
			t.Errorf("the dead is not buried: %v", err)
		}
	})
}

func TestAnotherDockerHasNoUseForEndpointsThatNobodyIsIn(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3))
	r.must(func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1003), "/ns") })
	r.engine.Restarted(t.Context())
	if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); !errors.Is(err, spec.ErrNotFound) {
		t.Errorf("the endpoint that never was joined: got %v, want that it is gone", err)
	}
	if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1003)); err != nil {
		t.Errorf("the living went along: %v", err)
	}
}

// TestNobodyIsInASandboxThatDockerGaveUp although its pair is there: a process that
// should have become a container was left behind. Where sandboxes cannot be seen, that
// one is not tells nothing.
func TestNobodyIsInASandboxThatDockerGaveUp(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	for ep, sandbox := range map[int]string{2: "/ns2", 3: "/ns3"} {
		r.must(addEndpoint(1, ep), func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1000+ep), sandbox) })
	}
	r.must(publish(80))
	evict := func(want bool) {
		t.Helper()
		if gone, err := r.engine.EvictUnheard(t.Context(), id("a", 1), id("e", 1002)); gone != want || err != nil {
			t.Fatalf("gone %t, %v; want %t", gone, err, want)
		}
	}
	r.engine.Joined("/ns2")
	r.engine.Restarted(t.Context())
	evict(false)
	for _, sandbox := range []string{"/ns2", "/ns3"} {
		r.layers[0].Bind(sandbox, true)
		r.engine.Joined(sandbox)
	}
	evict(false)
	r.layers[0].Bind("/ns2", false)
	evict(true)
	if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1003)); err != nil {
		t.Errorf("the living went along: %v", err)
	}
}

// TestOnlyTheUnheardMakeWay is about endpoints that nobody is in: one was left over
// from before the start, the containers of the others are about to start.
func TestOnlyTheUnheardMakeWay(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3))
	r.restart()
	r.must(addEndpoint(1, 4), publish(80))
	for ep, want := range map[int]bool{2: false, 3: true, 4: false} {
		gone, err := r.engine.EvictUnheard(t.Context(), id("a", 1), id("e", 1000+ep))
		if err != nil || gone != want {
			t.Errorf("endpoint %d: gone %t, %v; want %t", ep, gone, err, want)
		}
	}
}

// TestRunForgetsWhomTheEngineForgot is about a daemon that was away while a container
// was removed: the engine brought the veth's end back, and says no more.
func TestRunForgetsWhomTheEngineForgot(t *testing.T) {
	const living, back, never, late = 2, 3, 4, 5
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1))
		for _, ep := range []int{living, back, never, late} {
			r.must(addEndpoint(1, ep))
		}
		join := func(ep int) func(*spec.State) error {
			return func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1000+ep), "/ns") }
		}
		r.must(join(living), join(back))
		peer := strings.TrimPrefix(strings.Replace(veth(1, back), "dbv", "dbp", 1), "link ")
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(r.store, &withLink{r.layers[0], peer, false}, layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, r.engine)
		known := func() (all []int) {
			for _, ep := range []int{living, back, never, late} {
				if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1000+ep)); err == nil {
					all = append(all, ep)
				}
			}
			return all
		}
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]int{living, back, never, late}, known()); diff != "" {
			t.Errorf("after two minutes (-want +got):\n%s", diff)
		}
		r.must(join(late))
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]int{living, late}, known()); diff != "" {
			t.Errorf("after four minutes (-want +got):\n%s", diff)
		}
	})
}

// TestWhoCannotLookAtTheHostTriesAgainSoon though nothing wakes him any more.
func TestWhoCannotLookAtTheHostTriesAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1))
		before := r.world()
		run(t, r.engine)
		synctest.Wait()
		r.layers[0].Fail(errBroken)
		r.layers[1].Delete(bridge(1))
		r.engine.Wake()
		<-time.After(3 * time.Second)
		r.layers[0].Fail(nil)
		<-time.After(2 * time.Second)
		synctest.Wait()
		r.same(before)
	})
}

// TestStartForgetsWhomTheEngineTookOut and not whom it is about to put in: both have
// their ends of the pairs on the host.
func TestStartForgetsWhomTheEngineTookOut(t *testing.T) {
	for _, used := range []bool{true, false} {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3), publish(80))
		for _, ep := range []int{2, 3} {
			r.must(func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1000+ep), "/ns") })
		}
		peer := strings.TrimPrefix(strings.Replace(veth(1, 2), "dbv", "dbp", 1), "link ")
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(r.store, &withLink{r.layers[0], peer, used}, layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); errors.Is(err, spec.ErrNotFound) != used {
			t.Errorf("its end was in use: %t; got %v", used, err)
		}
		if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1003)); err != nil {
			t.Errorf("the living went along: %v", err)
		}
	}
}

// withLink is a host with one link that is no layer's business.
type withLink struct {
	*enginetest.Host
	name string
	used bool
}

func (h *withLink) Exists(link string) (exists, used bool, err error) {
	if link == h.name {
		return true, h.used, nil
	}
	return h.Host.Exists(link)
}
