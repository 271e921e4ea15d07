package engine_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// chain has what two layers put there: one takes away ahead of the links what is not
// planned, the other adds behind them what is.
type chain struct {
	mu      sync.Mutex
	accepts map[spec.ID]bool
}

type (
	withdraw struct{ *chain }
	insert   struct{ *chain }
)

func (l withdraw) Apply(_ context.Context, _, want *plan.Plan) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.accepts, func(id spec.ID, _ bool) bool {
		_, planned := want.Networks.Get(id)
		return !planned
	})
	return nil
}

func (l withdraw) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

func (l insert) Apply(_ context.Context, _, want *plan.Plan) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range want.Networks.All() {
		l.accepts[id] = true
	}
	return nil
}

func (l insert) Check(_ context.Context, want *plan.Plan) (drift []plan.Drift, err error) {
	have := l.list()
	for id := range want.Networks.All() {
		if !slices.Contains(have, id) {
			drift = append(drift, plan.Drift{Owner: plan.Owner{Network: id}, Object: "accept of " + string(id), Want: "one"})
		}
	}
	return drift, nil
}

func (c *chain) Remove(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.accepts)
	return nil
}

func (c *chain) list() []spec.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.accepts))
}

func (c *chain) lose(id spec.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.accepts, id)
}

// TestNobodyBringsBackWhatAChangeHasGivenUp while it is still at work on the links.
func TestNobodyBringsBackWhatAChangeHasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, c := &enginetest.Store{}, &chain{accepts: map[spec.ID]bool{}}
		links := &slow{enginetest.NewHost(), id("a", 1), make(chan struct{}, 100), make(chan struct{})}
		log, told := logtest.NewNullLogger()
		layers := engine.Layers{Ahead: []engine.Layer{withdraw{c}}, Links: links, Behind: []engine.Layer{insert{c}}}
		r := &rig{t: t, store: store, engine: engine.New(store, links, layers, nil, log)}
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := r.begin(1, addNetwork(1))
		<-links.reached
		r.must(addNetwork(2))
		links.free <- struct{}{}
		if err := <-held; err != nil {
			t.Fatal(err)
		}
		run(t, r.engine)

		held = r.begin(1, removeNetwork(1))
		<-links.reached
		if drift, err := r.engine.Check(t.Context()); err != nil || len(drift) > 0 {
			t.Errorf("what is being changed is taken for wrong: %v, %v", drift, err)
		}
		c.lose(id("a", 2)) // so that there is something to mend
		r.engine.Wake()
		<-time.After(time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]spec.ID{id("a", 2)}, c.list()); diff != "" {
			t.Errorf("after a mend amid a removal (-want +got):\n%s", diff)
		}
		close(links.free)
		if err := <-held; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]spec.ID{id("a", 2)}, c.list()); diff != "" {
			t.Errorf("after the removal (-want +got):\n%s", diff)
		}
		for _, entry := range told.AllEntries() {
			if strings.Contains(entry.Message, string(id("a", 1))) {
				t.Errorf("it was told: %s", entry.Message)
			}
		}
	})
}

// heldInsert does not come back from a look once it is armed, until it is told to.
type heldInsert struct {
	insert
	armed   atomic.Bool
	reached chan struct{}
	free    chan struct{}
}

func (h *heldInsert) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have == nil && h.armed.Swap(false) {
		close(h.reached)
		<-h.free
	}
	return h.insert.Apply(ctx, have, want)
}

// TestWhatIsGivenUpAmidALookStaysAway, and nobody ahead of the links waits for that look.
func TestWhatIsGivenUpAmidALookStaysAway(t *testing.T) {
	store, links, c := &enginetest.Store{}, enginetest.NewHost(), &chain{accepts: map[spec.ID]bool{}}
	behind := &heldInsert{insert: insert{c}, reached: make(chan struct{}), free: make(chan struct{})}
	log, _ := logtest.NewNullLogger()
	layers := engine.Layers{Ahead: []engine.Layer{withdraw{c}}, Links: links, Behind: []engine.Layer{behind}}
	r := &rig{t: t, store: store, engine: engine.New(store, links, layers, nil, log)}
	if err := r.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.must(addNetwork(1), addNetwork(2))
	run(t, r.engine)
	behind.armed.Store(true)
	c.lose(id("a", 1))
	r.engine.Wake()
	<-behind.reached
	removed := r.begin(2, removeNetwork(2))
	waitFor(t, "the layers ahead, who wait for nobody behind", func() bool { return len(c.list()) == 0 })
	close(behind.free)
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]spec.ID{id("a", 1)}, c.list()); diff != "" {
		t.Errorf("after the removal (-want +got):\n%s", diff)
	}
}

// heldStore does not come back from a Save once it is armed, until it is told to.
type heldStore struct {
	*enginetest.Store
	armed atomic.Bool
	free  chan struct{}
}

func (s *heldStore) Save(before, after spec.State) error {
	if s.armed.Load() {
		<-s.free
	}
	return s.Store.Save(before, after)
}

// arming has a store armed when an object could not be written.
type arming struct {
	*enginetest.Host
	store *heldStore
}

func (a arming) Apply(ctx context.Context, have, want *plan.Plan) error {
	err := a.Host.Apply(ctx, have, want)
	if err != nil {
		a.store.armed.Store(true)
	}
	return err
}

// TestNothingIsLetInWhereADropCouldNotBeMade: before the way back begins, somebody else's
// change comes to the layers behind.
func TestNothingIsLetInWhereADropCouldNotBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		store := &heldStore{Store: r.store, free: make(chan struct{})}
		log, _ := logtest.NewNullLogger()
		r.engine = engine.New(store, r.layers[0], layered(arming{r.layers[0], store}, links, r.layers[2]), nil, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		other := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		r.layers[0].Break(bridge(3), errBroken)
		failing := r.begin(3, addNetwork(3))
		synctest.Wait()
		close(links.free)
		if err := <-other; err != nil {
			t.Error(err)
		}
		if strings.Contains(r.layers[2].String(), bridge(3)) {
			t.Error("the layers behind have what those ahead could not make")
		}
		close(store.free)
		if err := <-failing; !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	})
}

// TestAChangeKeepsTheDriftOfNetworksThatItDoesNotKnow since they came after it was planned.
func TestAChangeKeepsTheDriftOfNetworksThatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, links := slowRig(t)
		held := r.begin(1, addEndpoint(1, 2))
		<-links.reached
		r.must(addNetwork(3), addEndpoint(3, 2))
		r.layers[2].Break(veth(3, 2), errBroken)
		r.must(removeEndpoint(3, 2))
		synctest.Wait()
		wantDrift(t, r.engine, veth(3, 2))
		close(links.free)
		if err := <-held; err != nil {
			t.Error(err)
		}
		wantDrift(t, r.engine, veth(3, 2))
	})
}
