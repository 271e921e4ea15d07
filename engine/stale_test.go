package engine_test

import (
	"errors"
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
