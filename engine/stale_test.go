package engine_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/spec"
)

// TestWhoeverIsInAnEndpointIsNeverTakenForForgotten however long he says nothing, as a
// container that is paused or whose engine is away with live-restore, and whether or not
// his sandbox can be seen, as a managed plugin cannot.
func TestWhoeverIsInAnEndpointIsNeverTakenForForgotten(t *testing.T) {
	for name, seen := range map[string]bool{"a service": true, "a managed plugin": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.must(addNetwork(1), addEndpoint(1, 2), func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1002), "/ns") }, publish(80))
				r.layers[0].Bind("/ns", seen)
				r.restart()
				r.engine.Joined("/ns")
				run(t, r.engine)
				before := r.world()
				for range 3 {
					<-time.After(10 * time.Minute)
					synctest.Wait()
					r.engine.Restarted(t.Context())
					for _, evict := range []func() (bool, error){
						func() (bool, error) { return r.engine.Evict(t.Context(), id("a", 1), id("e", 1002)) },
						func() (bool, error) { return r.engine.EvictUnheard(t.Context(), id("a", 1), id("e", 1002)) },
					} {
						if gone, err := evict(); gone || err != nil {
							t.Errorf("gone %t, %v", gone, err)
						}
					}
				}
				r.same(before)
			})
		})
	}
}

// unseen is a host whose links cannot be looked for.
type unseen struct{ *enginetest.Host }

func (unseen) Exists(string) (exists, used bool, err error) { return false, false, errBroken }

func TestWhatCannotBeSeenIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2), func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1002), "/ns") })
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(r.store, unseen{r.layers[0]}, layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, r.engine)
		if gone, err := r.engine.Evict(t.Context(), id("a", 1), id("e", 1002)); gone || !errors.Is(err, errBroken) {
			t.Errorf("gone %t, %v", gone, err)
		}
		r.engine.Restarted(t.Context())
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatCannotBeSavedIsForgottenLater is about a disk that cannot be written for minutes.
func TestWhatCannotBeSavedIsForgottenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3), func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1003), "/ns") }, publish(80))
		r.restart()
		run(t, r.engine)
		r.store.Fail(errBroken)
		if err := r.engine.Do(t.Context(), id("a", 1), func(s *spec.State) error { s.RemoveNetwork(id("a", 1)); return nil }); !errors.Is(err, errBroken) {
			t.Errorf("a network is removed of which the disk still tells: %v", err)
		}
		<-time.After(10 * time.Minute)
		synctest.Wait()
		has := func(want bool) {
			t.Helper()
			if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); errors.Is(err, spec.ErrNotFound) == want {
				t.Errorf("got %v, want it to be there: %t", err, want)
			}
		}
		has(true)
		r.store.Fail(nil)
		<-time.After(time.Minute)
		synctest.Wait()
		has(false)
		if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1003)); err != nil {
			t.Errorf("the living went along: %v", err)
		}
	})
}

// waitingStore is one on a disk that takes its time.
type waitingStore struct {
	*enginetest.Store
	wait func()
}

func (s waitingStore) Save(before, after spec.State) error {
	s.wait()
	return s.Store.Save(before, after)
}

// TestTheForgottenAreGoneAtOnce however many they are and however long the disk takes over
// the first of them: an engine that starts waits for it.
func TestTheForgottenAreGoneAtOnce(t *testing.T) {
	r := newRig(t)
	for n := range 20 {
		r.must(addNetwork(n), addEndpoint(n, 2))
	}
	left := func() (n int) {
		for _, network := range r.engine.Now().State.Networks.All() {
			n += network.Endpoints.Len()
		}
		return n
	}
	store := waitingStore{r.store, func() {
		for end := time.Now().Add(10 * time.Second); left() > 0; <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("waited in vain for all to be on their way")
				return
			}
		}
	}}
	log, _ := logtest.NewNullLogger()
	r.engine = engine.New(store, r.layers[0], layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
	if err := r.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.engine.Restarted(t.Context())
	if stored, err := r.store.Load(); err != nil || stored.Networks != r.engine.Now().State.Networks {
		t.Errorf("they are not gone: %v", err)
	}
}

// TestAStartWaitsForNoFuneral that takes long: nobody is served before the daemon is ready.
func TestAStartWaitsForNoFuneral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2), func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1002), "/ns") })
		peer := strings.TrimPrefix(strings.Replace(veth(1, 2), "dbv", "dbp", 1), "link ")
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(waitingStore{r.store, func() { <-time.After(time.Minute) }}, &withLink{r.layers[0], peer, true}, layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
		begun := time.Now()
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %s", took)
		}
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if stored, err := r.store.Load(); err != nil || stored.Networks != r.engine.Now().State.Networks {
			t.Errorf("it is not gone: %v", err)
		}
	})
}
