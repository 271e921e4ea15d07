package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// row are layers that work for one change after the other.
type row struct {
	layers []Layer
	mu     sync.Mutex                // one change or look at a time
	want   atomic.Pointer[plan.Plan] // what they were last told; written by who holds mu
	sure   bool                      // that the host is like that; after a failure, nobody is
	turn   int                       // the newest of the changes that it has
	look   atomic.Bool               // somebody else says that nobody can be sure
	next   *row                      // which relies on this one, so it looks where this one had to
	prior  *row                      // which this one relies on
	// waiting are changes on their way here. Whose turn it is takes all of them along. It
	// is guarded by the Engine's mu.
	waiting []*passenger
}

// passenger is a change that waits for a row.
type passenger struct {
	*move
	err  error
	made bool
}

// together applies a change to a row, and with it all others that wait for the same.
func (e *Engine) together(ctx context.Context, r *row, m *move) error {
	self := &passenger{move: m}
	e.mu.Lock()
	r.waiting = append(r.waiting, self)
	e.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if self.made {
		return self.err
	}
	e.mu.Lock()
	all := r.waiting
	r.waiting = nil
	e.mu.Unlock()
	defer func() {
		for _, p := range all {
			p.made = true
		}
	}()
	for _, p := range all {
		p.err = errors.New("internal error, its cause is in the log of drawbridge") // unless it comes back
	}
	r.take(ctx, all)
	return self.err
}

// take applies changes at once, unless that fails without naming an object: then each is
// tried alone, on top of those that did not.
func (r *row) take(ctx context.Context, all []*passenger) {
	want, turn := r.want.Load(), r.turn
	err := r.apply(ctx, r.with(all...))
	if len(all) == 1 || onlyOfObjects(err) {
		for _, p := range all {
			p.err = err
			// Who takes back what failed does not trust in what is remembered of it.
			r.sure = r.sure && p.blamed(err) == nil
		}
		return
	}
	for _, p := range all {
		r.want.Store(want)
		r.turn = turn
		r.take(ctx, []*passenger{p})
		if p.blamed(p.err) == nil {
			want, turn = r.want.Load(), r.turn
		}
	}
	r.want.Store(want)
	r.turn = turn
}

// with is the plan of a row with what changes made of their networks.
func (r *row) with(all ...*passenger) *plan.Plan {
	want := r.want.Load()
	for _, p := range all {
		want = p.onto(want, &r.turn)
	}
	return want
}

// apply walks the layers, first trusting what is remembered, then, after a failure, once
// more looking for itself.
func (r *row) apply(ctx context.Context, want *plan.Plan) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	have := r.want.Load()
	if r.look.Swap(false) || !r.sure {
		have = nil
	}
	r.want.Store(want)
	r.sure = false // should a layer panic, the next one looks
	err := error(nil)
	if have != nil {
		err = r.walk(ctx, have, want)
	}
	if have == nil || err != nil {
		err = r.lookAround(ctx, want)
	}
	r.sure = onlyOfNetworks(err)
	return err
}

// lookAround walks the layers without trusting in anything.
func (r *row) lookAround(ctx context.Context, want *plan.Plan) error {
	if r.next != nil {
		r.next.look.Store(true)
		defer r.next.look.Store(true) // for whoever looked there too early
	}
	if r.prior == nil {
		return r.walk(ctx, nil, want)
	}
	before := r.prior.want.Load().Networks
	want = r.within(want)
	err := r.walk(ctx, nil, want)
	for c := range tree.Diff(before, r.prior.want.Load().Networks) {
		if _, told := want.Networks.Get(c.Key); told && c.New == nil {
			r.prior.look.Store(true) // it was given up meanwhile, and may have been brought back
		}
	}
	return err
}

func (r *row) walk(ctx context.Context, have, want *plan.Plan) error {
	var all []error
	for _, l := range r.layers {
		err := l.Apply(ctx, have, want)
		all = append(all, err)
		if err != nil && have != nil {
			break // the second walk will look
		}
	}
	return errors.Join(all...)
}

// within is a plan without what the row before this one has given up already: whoever looks
// amid a change would bring that back.
func (r *row) within(want *plan.Plan) *plan.Plan {
	if r.prior == nil {
		return want
	}
	next, prior := *want, r.prior.want.Load().Networks
	for c := range tree.Diff(want.Networks, prior) {
		if c.Old != nil {
			next.Networks = next.Networks.As(prior, c.Key)
		}
	}
	return &next
}

// check asks the layers where the host differs from what they were told, and from what
// a change will tell them.
func (r *row) check(ctx context.Context, next *move) ([]plan.Drift, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := r.turn
	want := next.onto(r.within(r.want.Load()), &newest)
	var all []plan.Drift
	for _, l := range r.layers {
		drift, err := l.Check(ctx, want)
		if err != nil {
			return all, err
		}
		all = append(all, drift...)
	}
	return all, nil
}

// remove has the layers take everything off the host, the last of them first.
func (r *row) remove(ctx context.Context, nothing *plan.Plan) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed []error
	for _, l := range slices.Backward(r.layers) {
		failed = append(failed, l.Remove(ctx))
	}
	r.want.Store(nothing)
	r.sure = false
	return errors.Join(failed...)
}

// redo has a row look for itself.
func (e *Engine) redo(ctx context.Context, r *row) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.lookAt(ctx, r)
}

// lookIfAsked has a row look for itself if somebody says so and nobody has since.
func (e *Engine) lookIfAsked(ctx context.Context, r *row) error {
	if !r.look.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.look.Load() {
		return nil
	}
	return e.lookAt(ctx, r)
}

// lookAt is redo for who holds the row.
func (e *Engine) lookAt(ctx context.Context, r *row) error {
	e.mu.Lock()
	removed := e.removed
	e.mu.Unlock()
	if removed {
		return nil
	}
	r.sure = false
	return r.apply(ctx, r.want.Load())
}

// tell has a row know what a change wants, and not make it so.
func (r *row) tell(m *move) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want.Store(m.onto(r.want.Load(), &r.turn))
	r.sure = false
}
