// Package engine is the one owner of what is wanted: it alone changes the State,
// has it saved and makes the host match.
//
// It knows no kernel, no disk and no Docker: layers, store and observer are handed
// in, and whoever asks for a change says what the change is.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// A Layer makes one part of the host match a plan.
type Layer interface {
	// Apply makes the host match want. have is what was last applied; nil means
	// unknown, and the layer must look for itself. Applying the same plan twice
	// changes nothing. What goes wrong with one object is a plan.ObjectError and
	// keeps nothing else from being done; several are joined by errors.Join.
	Apply(ctx context.Context, have, want *plan.Plan) error
	// Check reports where the host differs from want and changes nothing.
	Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error)
	// Remove takes everything of ours off the host.
	Remove(ctx context.Context) error
}

// A Store remembers the State for the next process.
type Store interface {
	Load() (spec.State, error)
	// Save replaces before, which is what it holds, by after: both or neither.
	Save(before, after spec.State) error
}

// An Observer tells what the host is like.
type Observer interface {
	Look(ctx context.Context) (*plan.Host, error)
	// Exists reports whether the host has an interface of this name.
	Exists(link string) (bool, error)
	// Gateway is the default gateway of IPv4 in a sandbox; the zero Addr for none, and
	// where that cannot be seen.
	Gateway(sandbox string) (netip.Addr, error)
	// Bound reports whether a sandbox is seen to be there.
	Bound(sandbox string) bool
}

// A Reserver holds ports of the host for an endpoint before its plan has them, so that what
// is taken is refused at once, and of several numbers one is found that is free.
type Reserver interface {
	// Reserve takes ports, all or none. An error with EADDRINUSE in it says that one of them
	// is taken. Nobody is served there before an Apply has them in its plan.
	Reserve(owner plan.Owner, ports []spec.Port) error
	// Release gives up what was reserved and no Apply has had in its plan.
	Release(owner plan.Owner)
	// Ephemeral are the numbers that the host chooses from, in ascending order.
	Ephemeral() ([]spec.PortRange, error)
}

// applyTimeout bounds the work on the kernel for one request. An engine waits
// without limit, but what takes longer is stuck, not slow.
const applyTimeout = 30 * time.Second

// Snapshot is a moment of the engine for those who read.
type Snapshot struct {
	State spec.State
	Plan  *plan.Plan
	// Drift is what the layers could not make right, as last seen.
	Drift []plan.Drift
}

// Engine owns the State. Create it with New, bring it up with Start.
type Engine struct {
	store    Store
	observer Observer
	layers   []Layer // in the order of adding; removing goes the other way round
	reserver Reserver
	log      logrus.FieldLogger

	mu    sync.Mutex // one change at a time
	have  *plan.Plan // what the host was made to match; nil after a failure
	saved spec.State // what the store holds; not the present State after a failure
	// removed is set when everything was taken off the host: nothing comes back.
	removed bool
	// search is where the next search for an ephemeral port begins: at first anywhere, so
	// that a number that was given up rests over our restarts, too. 0 is not chosen yet.
	search uint16

	now   atomic.Pointer[Snapshot]
	found atomic.Pointer[spec.State] // what was there when we started, or an engine did after us
	sees  atomic.Bool                // a sandbox was seen to be there, so one that is not has gone
	wake  chan struct{}
}

// New makes an Engine of its parts.
func New(store Store, observer Observer, layers []Layer, reserver Reserver, log logrus.FieldLogger) *Engine {
	return &Engine{store: store, observer: observer, layers: layers, reserver: reserver, log: log, wake: make(chan struct{}, 1)}
}

// Start loads the State and makes the host match it. What cannot be made right is
// logged and left to Run: one broken network must not keep the others down.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	state, want, err := e.load(ctx)
	if err != nil {
		return err
	}
	err = e.apply(ctx, want)
	e.publish(state, want, drifts(err))
	if err != nil {
		e.Wake()
	}
	return nil
}

// Load is Start for whoever will only Remove: nothing is made first.
func (e *Engine) Load(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	state, want, err := e.load(ctx)
	if err == nil {
		e.publish(state, want, nil)
	}
	return err
}

func (e *Engine) load(ctx context.Context) (spec.State, *plan.Plan, error) {
	state, err := e.store.Load()
	if err != nil {
		return spec.State{}, nil, fmt.Errorf("load state: %w", err)
	}
	host, err := e.observer.Look(ctx)
	if err != nil {
		return spec.State{}, nil, fmt.Errorf("look at the host: %w", err)
	}
	e.saved = state
	e.found.Store(&state)
	return state, plan.New(state, host), nil
}

// Now is the present State and Plan. It never waits.
func (e *Engine) Now() Snapshot { return *e.now.Load() }

// Do changes the State and makes the host match. It takes hold in both or in
// neither. What goes wrong with an object that the change neither adds nor alters
// becomes Drift and does not fail the change.
func (e *Engine) Do(ctx context.Context, change func(*spec.State) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.do(ctx, change)
}

func (e *Engine) do(ctx context.Context, change func(*spec.State) error) error {
	if e.removed {
		return fmt.Errorf("drawbridge: %w: it was removed from this host", spec.ErrNotFound)
	}
	before := e.Now()
	next := before.State
	if err := change(&next); err != nil {
		return err // a rule of spec: nothing has happened
	}
	if next.Networks == before.State.Networks {
		return nil
	}
	want := before.Plan.Next(before.State, next, before.Plan.Host)
	if err := e.save(next); err != nil {
		return err
	}
	looked := e.have == nil
	err := e.apply(ctx, want)
	if blamed := blame(err, before.Plan, want); blamed != nil {
		return errors.Join(blamed, e.undo(ctx, before))
	}
	drift := drifts(err)
	if err == nil && !looked {
		drift = untouched(before.Drift, before.Plan, want)
	}
	e.publish(next, want, drift)
	if err != nil {
		e.Wake()
	}
	return nil
}

// undo brings State and host back to what they were.
func (e *Engine) undo(ctx context.Context, before Snapshot) error {
	failed := e.save(before.State)
	if failed != nil {
		failed = fmt.Errorf("undo: %w", failed) // the next change or look saves again
	}
	e.have = nil
	err := e.apply(ctx, before.Plan)
	e.publish(before.State, before.Plan, drifts(err))
	if err != nil || failed != nil {
		e.Wake()
	}
	return failed
}

// save makes the store hold a State, whatever it holds now.
func (e *Engine) save(state spec.State) error {
	if e.saved.Networks == state.Networks {
		return nil
	}
	if err := e.store.Save(e.saved, state); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	e.saved = state
	return nil
}

// apply walks the layers, first trusting what is remembered, then, after a
// failure, once more looking for itself. A started apply is finished even if
// whoever asked for it has gone.
func (e *Engine) apply(ctx context.Context, want *plan.Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	have := e.have
	e.have = nil // should a layer panic, the next one looks
	err := e.walk(ctx, have, want)
	if err != nil && have != nil {
		err = e.walk(ctx, nil, want)
	}
	if blame(err, nil, nil) == nil {
		e.have = want
	}
	return err
}

func (e *Engine) walk(ctx context.Context, have, want *plan.Plan) error {
	var all []error
	for _, l := range e.layers {
		err := l.Apply(ctx, have, want)
		all = append(all, err)
		if err != nil && have != nil {
			break // the second walk will look
		}
	}
	return errors.Join(all...)
}

// publish makes a State and its Plan the present ones.
func (e *Engine) publish(state spec.State, p *plan.Plan, drift []plan.Drift) {
	for _, d := range drift {
		e.log.WithFields(logrus.Fields{"owner": d.Owner.String(), "object": d.Object}).Warnf("left for the reconciler: %s", d.Got)
	}
	e.now.Store(&Snapshot{State: state, Plan: p, Drift: drift})
}

// Remove takes everything of ours off the host and forgets every network. After
// that the Engine does nothing any more.
func (e *Engine) Remove(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.Now()
	var failed []error
	for i := len(e.layers) - 1; i >= 0; i-- {
		failed = append(failed, e.layers[i].Remove(ctx))
	}
	failed = append(failed, e.save(spec.State{}))
	e.have = nil
	e.now.Store(&Snapshot{Plan: plan.New(spec.State{}, before.Plan.Host)})
	err := errors.Join(failed...)
	e.removed = err == nil
	return err
}
