package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

var errBroken = errors.New("broken on purpose")

// rig is an engine over three layers, each a host in memory.
type rig struct {
	t      *testing.T
	store  *enginetest.Store
	layers []*enginetest.Host
	ports  enginetest.Ports
	engine *engine.Engine
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, store: &enginetest.Store{}}
	for range 3 {
		r.layers = append(r.layers, enginetest.NewHost())
	}
	r.restart()
	return r
}

// restart makes a new engine over the same store and layers.
func (r *rig) restart() {
	r.t.Helper()
	log, _ := logtest.NewNullLogger()
	log.SetLevel(logrus.PanicLevel)
	r.engine = engine.New(r.store, r.layers[0], layered(r.layers[0], r.layers[1], r.layers[2]), &r.ports, log)
	if err := r.engine.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func layered(ahead engine.Layer, links engine.Links, behind engine.Layer) engine.Layers {
	return engine.Layers{Ahead: []engine.Layer{ahead}, Links: links, Behind: []engine.Layer{behind}}
}

func (r *rig) do(change func(*spec.State) error) error {
	return r.engine.Do(r.t.Context(), "", change)
}

func (r *rig) must(changes ...func(*spec.State) error) {
	r.t.Helper()
	for _, change := range changes {
		if err := r.do(change); err != nil {
			r.t.Fatal(err)
		}
	}
}

// world is all that a change can have changed, as text.
func (r *rig) world() string {
	r.t.Helper()
	r.engine.Await(r.t.Context())
	stored, err := r.store.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	text := describe(r.engine.Now().State) + "stored:\n" + describe(stored)
	for i, l := range r.layers {
		text += fmt.Sprintf("layer %d:\n%s", i, l)
	}
	return text
}

func describe(state spec.State) string { return plan.New(state, &plan.Host{IPv6: true}).String() }

func (r *rig) same(want string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.world()); diff != "" {
		r.t.Errorf("the world has changed (-want +got):\n%s", diff)
	}
}

// id is an ID as long as Docker's.
func id(kind string, n int) spec.ID {
	return spec.ID(fmt.Sprintf("%s%011d%052d", kind, n, 0))
}

func addNetwork(n int) func(*spec.State) error {
	subnet := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", n))
	return func(s *spec.State) error {
		return s.AddNetwork(&spec.Network{ID: id("a", n), InterfacePrefix: "eth", Pools: []spec.Pool{
			{Prefix: subnet, Gateway: subnet.Addr().Next()},
		}})
	}
}

func addEndpoint(n, ep int) func(*spec.State) error {
	addr := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", n, ep))
	return func(s *spec.State) error {
		added := &spec.Endpoint{ID: id("e", 1000*n+ep), IPv4: addr}
		added.MAC = spec.EndpointMAC(id("a", n), added)
		return s.AddEndpoint(id("a", n), added)
	}
}

func removeEndpoint(n, ep int) func(*spec.State) error {
	return func(s *spec.State) error {
		s.RemoveEndpoint(id("a", n), id("e", 1000*n+ep))
		return nil
	}
}

// publish is for endpoint 2 of network 1.
func publish(port uint16) func(*spec.State) error {
	return func(s *spec.State) error {
		return s.Publish(id("a", 1), id("e", 1002), []spec.Port{
			{Proto: spec.TCP, HostPort: port, ContainerPort: port, Count: 1},
		}, false)
	}
}

func veth(n, ep int) string { return "link dbv" + string(id("e", 1000*n+ep)[:12]) }
func bridge(n int) string   { return "link dbr" + string(id("a", n)[:12]) }

func TestDoBothOrNeither(t *testing.T) {
	changes := map[string]struct {
		change func(*spec.State) error
		object string
	}{
		"a network is added":    {addNetwork(2), bridge(2)},
		"an endpoint is added":  {addEndpoint(1, 9), veth(1, 9)},
		"a port is published":   {publish(8080), veth(1, 2)},
		"another network's key": {addNetwork(3), bridge(3)},
	}
	for name, c := range changes {
		for at := range 3 {
			t.Run(fmt.Sprintf("%s and layer %d cannot do it", name, at), func(t *testing.T) {
				r := newRig(t)
				r.must(addNetwork(1), addEndpoint(1, 2))
				before := r.world()
				r.layers[at].Break(c.object, errBroken)
				err := r.do(c.change)
				if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), c.object) {
					t.Errorf("want the error of %s, got %v", c.object, err)
				}
				r.layers[at].Break(c.object, nil)
				r.same(before)
				r.must(c.change)
			})
		}
		t.Run(name+" and the store cannot save it", func(t *testing.T) {
			r := newRig(t)
			r.must(addNetwork(1), addEndpoint(1, 2))
			before := r.world()
			r.store.Fail(errBroken)
			if err := r.do(c.change); !errors.Is(err, errBroken) {
				t.Errorf("want the store's error, got %v", err)
			}
			r.store.Fail(nil)
			r.same(before)
			r.must(c.change)
		})
		t.Run(name+" and a layer fails without naming an object", func(t *testing.T) {
			r := newRig(t)
			r.must(addNetwork(1), addEndpoint(1, 2))
			before := r.world()
			r.layers[1].Fail(errBroken)
			if err := r.do(c.change); !errors.Is(err, errBroken) {
				t.Errorf("want the layer's error, got %v", err)
			}
			r.layers[1].Fail(nil)
			r.must(addEndpoint(1, 77), removeEndpoint(1, 77)) // the next change looks and mends
			r.same(before)
		})
	}
}

func TestWhatSpecRefusesIsNeverTried(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	before, writes := r.world(), r.layers[0].Writes()
	err := r.do(func(s *spec.State) error {
		s.RemoveNetwork(id("a", 1))
		return errBroken
	})
	if !errors.Is(err, errBroken) {
		t.Errorf("want the change's own error, got %v", err)
	}
	r.same(before)
	if now := r.layers[0].Writes(); now != writes {
		t.Errorf("%d objects were written", now-writes)
	}
}

func TestRepeatedChangeTouchesNothing(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2), publish(80))
	writes := r.layers[0].Writes()
	r.store.Fail(errBroken) // it must not even save
	r.must(addNetwork(1), addEndpoint(1, 2), publish(80), removeEndpoint(1, 99))
	if now := r.layers[0].Writes(); now != writes {
		t.Errorf("%d objects were written", now-writes)
	}
}

func TestOneRequestNeverPaysForAnothersTrouble(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addNetwork(2))
	// Somebody deletes the first network's bridge, and it cannot be made again.
	r.layers[2].Delete(bridge(1))
	r.layers[2].Break(bridge(1), errBroken)
	r.layers[2].Break(veth(2, 2), errors.New("once"))
	if err := r.do(addEndpoint(2, 2)); err == nil || strings.Contains(err.Error(), bridge(1)) {
		t.Errorf("want the error of the endpoint alone, got %v", err)
	}
	r.layers[2].Break(veth(2, 2), nil)
	r.must(addEndpoint(2, 2))
	wantDrift(t, r.engine, bridge(1))
	r.must(addEndpoint(2, 3))
	wantDrift(t, r.engine, bridge(1)) // still true, although nobody looked again
	if err := r.do(addEndpoint(1, 2)); err != nil {
		t.Errorf("an endpoint does not own its network's bridge, yet: %v", err)
	}
	r.must(func(s *spec.State) error { s.RemoveNetwork(id("a", 1)); return nil })
	r.engine.Await(t.Context())
	wantDrift(t, r.engine)
}

func TestRemovalThatTheHostRefusesDoesNotJamDocker(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1), addEndpoint(1, 2))
	r.layers[2].Break(veth(1, 2), errBroken)
	r.must(removeEndpoint(1, 2))
	r.engine.Await(t.Context())
	wantDrift(t, r.engine, veth(1, 2))
	if _, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1002)); !errors.Is(err, spec.ErrNotFound) {
		t.Errorf("the endpoint is still there: %v", err)
	}
	r.layers[2].Break(veth(1, 2), nil)
	run(t, r.engine)
	r.engine.Wake()
	waitFor(t, "the leftover veth pair to go", func() bool {
		return !strings.Contains(r.layers[2].String(), "dbv") && len(r.engine.Now().Drift) == 0
	})
}

func at(e *engine.Engine) *spec.State {
	state := e.Now().State
	return &state
}

func wantDrift(t *testing.T, e *engine.Engine, objects ...string) {
	t.Helper()
	var got []string
	for _, d := range e.Now().Drift {
		got = append(got, d.Object)
	}
	if diff := cmp.Diff(objects, got); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
}

func TestEvictTakesTheDeadOnly(t *testing.T) {
	const living, vanished, back, early = 2, 3, 4, 5
	r := newRig(t)
	r.must(addNetwork(1))
	for _, ep := range []int{living, vanished, back, early} {
		r.must(addEndpoint(1, ep))
		if ep != early {
			r.must(func(s *spec.State) error { return s.Join(id("a", 1), id("e", 1000+ep), "/ns") })
		}
	}
	r.layers[0].Delete(veth(1, vanished))
	r.layers[0].Put(strings.Replace(veth(1, back), "dbv", "dbp", 1))
	for ep, want := range map[int]bool{living: false, vanished: true, back: true, early: true, 99: true} {
		for range 2 { // what is gone already is gone, too
			gone, err := r.engine.Evict(t.Context(), id("a", 1), id("e", 1000+ep))
			if err != nil || gone != want {
				t.Errorf("endpoint %d: gone %t, %v", ep, gone, err)
			}
		}
		_, _, err := at(r.engine).Endpoint(id("a", 1), id("e", 1000+ep))
		if errors.Is(err, spec.ErrNotFound) != want {
			t.Errorf("endpoint %d: %v", ep, err)
		}
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	r := newRig(t)
	empty := r.world()
	r.must(addNetwork(1), addEndpoint(1, 2), publish(80))
	if err := r.engine.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.same(empty)
	if err := r.do(addNetwork(1)); !errors.Is(err, spec.ErrNotFound) {
		t.Errorf("what was removed comes back: %v", err)
	}
	r.restart() // the next process begins anew
	r.must(addNetwork(1))
}

// TestWhoeverOnlyRemovesMakesNothingFirst of what stands or of what is missing.
func TestWhoeverOnlyRemovesMakesNothingFirst(t *testing.T) {
	r := newRig(t)
	empty := r.world()
	r.must(addNetwork(1), addNetwork(2), addEndpoint(1, 2))
	r.layers[1].Delete(bridge(2))
	var writes []int
	for _, l := range r.layers {
		writes = append(writes, l.Writes())
	}
	log, _ := logtest.NewNullLogger()
	r.engine = engine.New(r.store, r.layers[0], layered(r.layers[0], r.layers[1], r.layers[2]), nil, log)
	if err := r.engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.engine.Now().State.Networks.Len(); got != 2 {
		t.Errorf("it knows %d networks", got)
	}
	for i, l := range r.layers {
		if now := l.Writes(); now != writes[i] {
			t.Errorf("layer %d: %d objects were written", i, now-writes[i])
		}
	}
	if err := r.engine.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.same(empty)
}

func TestRemoveThatFailsCanBeRepeated(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	r.layers[1].Fail(errBroken)
	if err := r.engine.Remove(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("want the layer's error, got %v", err)
	}
	r.layers[1].Fail(nil)
	if err := r.engine.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPanicInALayerLeavesAnEngineThatWorks(t *testing.T) {
	r := newRig(t)
	r.must(addNetwork(1))
	log, _ := logtest.NewNullLogger()
	bomb := &bomb{Host: r.layers[1]}
	r.engine = engine.New(r.store, r.layers[0], layered(r.layers[0], bomb, r.layers[2]), nil, log)
	if err := r.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	bomb.armed = true
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the layer did not panic")
			}
		}()
		_ = r.do(addNetwork(2))
	}()
	bomb.armed = false
	r.must(addNetwork(3), func(s *spec.State) error { s.RemoveNetwork(id("a", 3)); return nil })
	r.same(before)
}

// bomb is a layer with a bug.
type bomb struct {
	*enginetest.Host
	armed bool
}

func (b *bomb) Apply(ctx context.Context, have, want *plan.Plan) error {
	if b.armed {
		panic("boom")
	}
	return b.Host.Apply(ctx, have, want)
}

func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	run(t, r.engine)
	var all sync.WaitGroup
	for n := 1; n <= 8; n++ {
		all.Go(func() {
			if err := r.do(addNetwork(n)); err != nil {
				t.Error(err)
			}
			for ep := 2; ep < 30; ep++ {
				if err := r.do(addEndpoint(n, ep)); err != nil {
					t.Error(err)
				}
				r.engine.Wake()
				if ep%2 == 0 {
					if err := r.do(removeEndpoint(n, ep)); err != nil {
						t.Error(err)
					}
				}
				_ = r.engine.Now().Plan.String()
			}
		})
	}
	all.Wait()
	drift, err := r.engine.Check(t.Context())
	if err != nil || len(drift) > 0 {
		t.Errorf("drift %v, error %v", drift, err)
	}
	r.restart()
	if got := at(r.engine).Networks.Len(); got != 8 {
		t.Errorf("%d networks", got)
	}
}
