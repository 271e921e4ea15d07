package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// wish is an ephemeral port for a port of the container.
func wish(container uint16) spec.Wish {
	return spec.Wish{Port: spec.Port{Proto: spec.TCP, ContainerPort: container, Count: 1}}
}

// portsOf are the published ports of the endpoint that addEndpoint(1, ep) makes.
func (r *rig) portsOf(ep int) string {
	r.t.Helper()
	state := r.engine.Now().State
	_, e, err := state.Endpoint(id("a", 1), id("e", 1000+ep))
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprint(e.Ports)
}

func (r *rig) publish(ep int, m spec.PortMap) error {
	return r.engine.Publish(r.t.Context(), id("a", 1), id("e", 1000+ep), m)
}

func TestPublishChoosesReservesAndAppliesInOneStep(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3))
	r.ports.Take(spec.Port{Proto: spec.TCP, HostPort: 32768, Count: 3})
	if err := r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80)}}); err != nil {
		t.Fatal(err)
	}
	const want = "[*:32771->80/tcp]"
	if got := r.portsOf(2); got != want {
		t.Errorf("published %s, want %s", got, want)
	}
	if world := r.world(); strings.Count(world, "*:32771->80/tcp") < len(r.layers) {
		t.Errorf("not everywhere:\n%s", world)
	}
	before := r.world()
	if err := r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80)}}); err != nil {
		t.Fatal(err)
	}
	r.same(before)
	r.restart()
	if err := r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80)}}); err != nil || r.portsOf(2) != want {
		t.Errorf("not kept over a restart: %s, %v", r.portsOf(2), err)
	}
}

// TestANumberThatWasGivenUpRests counts how often the next container gets the same number.
func TestANumberThatWasGivenUpRests(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2))
	had := map[string]int{}
	const rounds = 20
	round := func() {
		t.Helper()
		if err := r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80)}}); err != nil {
			t.Fatal(err)
		}
		had[r.portsOf(2)]++
		r.must(unpublish)
	}
	for range rounds {
		round()
	}
	for number, times := range had {
		if times != rounds/4 {
			t.Errorf("%s: %d times of %d, want each of four numbers in turn", number, times, rounds)
		}
	}
	clear(had)
	for range rounds {
		r.restart()
		round()
	}
	if len(had) == 1 {
		t.Errorf("after each start it is %v", had)
	}
}

func unpublish(s *spec.State) error {
	s.Unpublish(id("a", 1), id("e", 1002))
	return nil
}

func TestAPublishThatFailsLeavesNothingReserved(t *testing.T) {
	for what, fail := range map[string]func(*rig) error{
		"no number is free": func(r *rig) error {
			r.ports.Take(spec.Port{Proto: spec.TCP, HostPort: 32769, Count: 3}) // one is free, and two are wished
			return spec.ErrInUse
		},
		"ports cannot be reserved": func(r *rig) error {
			r.ports.Fail(errBroken)
			return errBroken
		},
		"the kernel refuses": func(r *rig) error {
			r.layers[1].Break(veth(1, 2), errBroken)
			return errBroken
		},
		"the store refuses": func(r *rig) error {
			r.store.Fail(errBroken)
			return errBroken
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.must(addNetwork(1), addEndpoint(1, 2))
			before := r.world()
			cause := fail(r)
			err := r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80), wish(81)}})
			if !errors.Is(err, cause) {
				t.Errorf("want %v, got %v", cause, err)
			}
			r.store.Fail(nil)
			r.same(before)
			if left := r.ports.Reserved(plan.Owner{Network: id("a", 1), Endpoint: id("e", 1002)}); len(left) > 0 {
				t.Errorf("left reserved: %v", left)
			}
		})
	}
}

// TestACallKeepsWhatItReservedWhateverBecomesOfAnother for the same endpoint.
func TestACallKeepsWhatItReservedWhateverBecomesOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		owner := plan.Owner{Network: id("a", 1), Endpoint: id("e", 1002)}
		mine, taken := spec.Port{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}, spec.Port{Proto: spec.TCP, HostPort: 9090, ContainerPort: 90, Count: 1}
		added := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		first := make(chan error)
		go func() { first <- r.publish(2, spec.PortMap{Ports: []spec.Port{mine}}) }()
		synctest.Wait()
		r.ports.Take(taken)
		if err := r.publish(2, spec.PortMap{Ports: []spec.Port{mine, taken}}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("got %v", err)
		}
		if got := r.ports.Reserved(owner); !slices.Contains(got, mine) {
			t.Errorf("of the other call is reserved %v", got)
		}
		close(links.free)
		if err := errors.Join(<-added, <-first); err != nil {
			t.Error(err)
		}
		if got := r.ports.Reserved(owner); len(got) > 0 {
			t.Errorf("left reserved: %v", got)
		}
	})
}

func TestAPanicLeavesNothingReserved(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2))
	bomb := &bomb{Host: r.layers[1]}
	r.over(r.layers[0], bomb)
	bomb.armed = true
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the layer did not panic")
			}
		}()
		_ = r.publish(2, spec.PortMap{Wishes: []spec.Wish{wish(80)}})
	}()
	if left := r.ports.Reserved(plan.Owner{Network: id("a", 1), Endpoint: id("e", 1002)}); len(left) > 0 {
		t.Errorf("left reserved: %v", left)
	}
}

// TestAPortThatIsTakenIsRefusedBeforeAnythingHappens has an engine that starts a container
// again and again: each time would cost two saves and two looks at the whole host.
func TestAPortThatIsTakenIsRefusedBeforeAnythingHappens(t *testing.T) {
	fixed := spec.Port{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}
	for what, m := range map[string]spec.PortMap{
		"alone":         {Ports: []spec.Port{fixed}},
		"before wishes": {Ports: []spec.Port{fixed}, Wishes: []spec.Wish{wish(81)}},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3))
			r.ports.Take(fixed)
			r.store.Fail(errBroken)
			r.layers[0].Break(veth(1, 2), errBroken)
			err := r.publish(2, m)
			if !errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, errBroken) {
				t.Errorf("want a refusal and nothing else, got %v", err)
			}
			if left := r.ports.Reserved(plan.Owner{Network: id("a", 1), Endpoint: id("e", 1002)}); len(left) > 0 {
				t.Errorf("left reserved: %v", left)
			}
		})
	}
	t.Run("unless the endpoint has it", func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3))
		if err := r.publish(2, spec.PortMap{Ports: []spec.Port{fixed}}); err != nil {
			t.Fatal(err)
		}
		r.ports.Take(fixed) // as its own socket is in the way of whoever tries
		if err := r.publish(2, spec.PortMap{Ports: []spec.Port{fixed}, Wishes: []spec.Wish{wish(81)}}); err != nil {
			t.Error(err)
		}
		held := (*spec.HeldError)(nil)
		if err := r.publish(3, spec.PortMap{Ports: []spec.Port{fixed}}); !errors.As(err, &held) {
			t.Errorf("want a refusal that names the other endpoint, got %v", err)
		}
	})
}

func TestNobodyGetsInBetween(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), addEndpoint(1, 3), addEndpoint(1, 4), addEndpoint(1, 5))
	var all sync.WaitGroup
	for ep := 2; ep <= 5; ep++ {
		all.Go(func() {
			if err := r.publish(ep, spec.PortMap{Wishes: []spec.Wish{wish(80)}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for ep := 2; ep <= 5; ep++ {
		seen[r.portsOf(ep)] = true
	}
	if len(seen) != 4 {
		t.Errorf("four endpoints have %v", seen)
	}
}
