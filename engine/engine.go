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

// Layers make a plan real, in this order; taking everything off the host goes the other
// way round.
type Layers struct {
	// Ahead are those that what is let in relies on, such as drops. They work for one
	// change after the other, or for all that wait at once.
	Ahead []Layer
	Links Links
	// Behind are those that rely on the others, like Ahead.
	Behind []Layer
}

// Links is a layer that may take long over one network, and must not keep another one
// waiting: it is called for several networks at the same time, though for each with one
// change after the other. With a nil have, and to Remove, it is called alone.
type Links interface {
	Layer
	// Mend makes right what a network has of want, whatever it finds there, and nothing of
	// another one. No network stands for what is nobody's.
	Mend(ctx context.Context, want *plan.Plan, network spec.ID) error
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
	// Exists reports whether the host has an interface of this name, and whether that has
	// ever had a carrier, here or in a container.
	Exists(link string) (exists, used bool, err error)
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
	// is taken. Nobody is served there before an Apply has them in its plan. To release is
	// to give up what by then neither an Apply has in its plan nor anybody else reserved.
	Reserve(owner plan.Owner, ports []spec.Port) (release func(), err error)
	// Ephemeral are the numbers that the host chooses from, in ascending order.
	Ephemeral() ([]spec.PortRange, error)
}

// Snapshot is a moment of the engine for those who read.
type Snapshot struct {
	State spec.State
	// Plan is what the host is to be like, and is but for changes under way.
	Plan *plan.Plan
	// Drift is what the layers could not make right, as last seen.
	Drift []plan.Drift
}

// Engine owns the State. Create it with New, bring it up with Start.
//
// A change goes through three stages, so that nobody waits for somebody else's kernel
// object: it is made in memory; it is saved, with all others that wait for that; and it
// is applied, in the turn of the networks that it touches. A removal is answered when State
// and rules are gone; its links go after that, still in its turn.
type Engine struct {
	observer Observer
	reserver Reserver
	log      logrus.FieldLogger
	disk     disk

	ahead, behind row
	links         links

	// mu is held while a change is planned, and never for what may wait for others. It is
	// taken behind all others but the Reserver's own.
	mu     sync.Mutex
	turn   int // of the last change that was planned
	turns  turns
	failed failures
	// removed is set when everything is being taken off the host: nothing comes back.
	removed bool
	// search is where the next search for an ephemeral port begins: at first anywhere, so
	// that a number that was given up rests over our restarts, too. 0 is not chosen yet.
	search uint16

	now   atomic.Pointer[Snapshot]
	found atomic.Pointer[spec.State] // what was there when we started, or an engine did after us
	sees  atomic.Bool                // a sandbox was seen to be there, so one that is not has gone
	wake  chan struct{}
	feuds feuds // Run's alone
	// errands are what Run does not wait for.
	errands sync.WaitGroup
}

// New makes an Engine of its parts.
func New(store Store, observer Observer, layers Layers, reserver Reserver, log logrus.FieldLogger) *Engine {
	e := &Engine{
		observer: observer,
		reserver: reserver,
		log:      log,
		disk:     disk{store: store},
		ahead:    row{layers: layers.Ahead},
		links:    links{layer: layers.Links, mends: map[spec.ID]bool{}},
		behind:   row{layers: layers.Behind},
		turns:    newTurns(),
		wake:     make(chan struct{}, 1),
		feuds:    feuds{},
	}
	e.ahead.next, e.behind.prior = &e.behind, &e.ahead
	return e
}

// Start loads the State and makes the host match it. What cannot be made right is
// logged and left to Run: one broken network must not keep the others down.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.Load(ctx); err != nil {
		return err
	}
	now := e.Now().Plan
	e.settle(now, now, e.remake(ctx))
	e.buryTakenOut(ctx)
	return nil
}

// Load is Start for whoever will only Remove: nothing is made first.
func (e *Engine) Load(ctx context.Context) error {
	state, err := e.disk.load()
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	host, err := e.observer.Look(ctx)
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	want := plan.New(state, host)
	e.found.Store(&state)
	e.now.Store(&Snapshot{State: state, Plan: want})
	e.links.want = want
	e.ahead.want.Store(want)
	e.behind.want.Store(want)
	return nil
}

// Now is the present State and Plan. It never waits.
func (e *Engine) Now() Snapshot { return *e.now.Load() }

// Do changes the State of a network and makes the host match. It takes hold in both or in
// neither. What goes wrong with an object that the change neither adds nor alters becomes
// Drift and does not fail the change. Endpoints of other networks may change along with it.
func (e *Engine) Do(ctx context.Context, network spec.ID, change func(*spec.State) error) error {
	m, pending, err := e.plan(network, change)
	if err == nil && pending != nil {
		// What is asked for may be under way, and may yet be taken back.
		<-pending
		m, _, err = e.plan(network, change)
	}
	if m == nil {
		return err
	}
	return e.carry(ctx, m)
}

// plan makes a change in memory. It returns nil if that changes nothing, and what the
// network waits for then, if there is anything.
func (e *Engine) plan(network spec.ID, change func(*spec.State) error) (*move, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.removed {
		return nil, nil, fmt.Errorf("drawbridge: %w: it was removed from this host", spec.ErrNotFound)
	}
	before := e.Now()
	next := before.State
	if err := change(&next); err != nil {
		return nil, nil, err // a rule of spec: nothing has happened
	}
	if next.Networks == before.State.Networks {
		return nil, e.turns.pending(network), nil
	}
	return e.enter(next, before.Plan.Host, network), nil, nil
}

// enter makes a State and its Plan the present ones, and stands in line with the networks
// that differ and with those that are named. mu is held.
func (e *Engine) enter(next spec.State, host *plan.Host, networks ...spec.ID) *move {
	before := e.Now()
	after := Snapshot{State: next, Plan: before.Plan.Next(before.State, next, host), Drift: before.Drift}
	e.turn++
	m := &move{turn: e.turn, before: before, after: after, host: after.Plan}
	m.networks = touchedNetworks(before.Plan, after.Plan)
	m.linksFollow = m.mayBeFollowed()
	e.turns.enter(m, append(networks, m.networks...))
	e.now.Store(&after)
	return m
}

// carry saves a change and applies it, or takes it back. Where something only goes, its links
// follow the answer: whoever needs their names or subnets waits for their turn.
func (e *Engine) carry(ctx context.Context, m *move) error {
	finish := func() { close(m.done) }
	defer func() { finish() }()
	cameBack := false
	defer func() {
		if !cameBack { // a layer panicked
			e.tell(e.retract(m))
		}
	}()
	m.await()
	err := m.lost
	if err == nil {
		err = e.save(m)
	}
	if err == nil {
		applied := e.apply(ctx, m)
		err = m.blamed(applied.err())
		switch {
		case err != nil:
		case m.linksFollow:
			e.settled(&e.failed.rows, m.before.Plan, m.after.Plan, applied.rows)
			finish = func() { go e.unlink(ctx, m) } // for which Await waits
		default:
			e.settle(m.before.Plan, m.after.Plan, applied)
		}
	}
	if err != nil {
		err = errors.Join(err, e.takeBack(ctx, m))
	}
	cameBack = true
	return err
}

// unlink takes away the links of a removal that was answered. What cannot be taken away is
// left to Run, as anything else is that nobody wants.
func (e *Engine) unlink(ctx context.Context, m *move) {
	defer e.survive()
	defer close(m.done)
	e.settled(&e.failed.links, m.before.Plan, m.after.Plan, e.applyLinks(ctx, m))
}

// Leaving are the bridges of networks that were removed, and that the host may still have for
// a moment.
func (e *Engine) Leaving() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.turns.leaving()
}

// Await waits until all changes that are under way are made, or ctx ends.
func (e *Engine) Await(ctx context.Context) {
	e.mu.Lock()
	turns := e.turns.underWay()
	e.mu.Unlock()
	for _, turn := range turns {
		select {
		case <-turn:
		case <-ctx.Done():
			return
		}
	}
}

// takeBack brings State and host back to what they were, as far as the change goes. It
// goes the same way as the change.
func (e *Engine) takeBack(ctx context.Context, m *move) error {
	back := e.retract(m)
	failed := e.save(back)
	if failed != nil {
		failed = fmt.Errorf("undo: %w", failed) // the next change or look saves again
		e.Wake()
	}
	e.settle(back.before.Plan, back.after.Plan, e.insist(ctx, back))
	return failed
}

// retract takes a change out of memory, and returns the way back to what its networks were
// like. It has their turn still: whatever was planned on top of it has not been applied.
func (e *Engine) retract(m *move) *move {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turns.retract(m)
	now := e.Now()
	state := m.before.State
	if now.State.Networks != m.after.State.Networks {
		state = now.State
		state.Revert(m.before.State, m.after.State)
	}
	now.Plan = now.Plan.Next(now.State, state, now.Plan.Host)
	now.State = state
	e.now.Store(&now)
	// What could not be had back stays away, but for what a change that waits will bring.
	target := *m.before.Plan
	for _, id := range m.networks {
		if !e.turns.awaits(m, id) {
			target.Networks = target.Networks.As(now.Plan.Networks, id)
		}
	}
	e.turn++
	back := &move{turn: e.turn, networks: m.networks, before: m.after, after: m.before, host: now.Plan, done: m.done}
	back.after.Plan = &target
	e.turns.all[back] = struct{}{} // what it gives up, others may take
	return back
}

// Remove takes everything of ours off the host and forgets every network. After
// that the Engine does nothing any more.
func (e *Engine) Remove(ctx context.Context) error {
	e.mu.Lock()
	e.removed = true
	e.mu.Unlock()
	e.Await(context.WithoutCancel(ctx))
	e.mu.Lock()
	e.now.Store(&Snapshot{Plan: plan.New(spec.State{}, e.Now().Plan.Host)})
	e.mu.Unlock()
	err := e.removeAll(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.removed = err == nil
	return err
}

func (e *Engine) removeAll(ctx context.Context) error {
	nothing := plan.New(spec.State{}, e.Now().Plan.Host)
	return errors.Join(e.behind.remove(ctx, nothing), e.unlinkAll(ctx, nothing), e.ahead.remove(ctx, nothing), e.forget())
}
