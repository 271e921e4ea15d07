package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// applyTimeout bounds the work of one row, or of the links, on the kernel for one request.
// An engine waits without limit, but what takes longer is stuck, not slow.
const applyTimeout = 30 * time.Second

// apply makes the host match what a change planned for its networks. It stops at what fails
// the change: nothing is let in where a drop could not be made. What is started is finished
// even if whoever asked for it has gone.
func (e *Engine) apply(ctx context.Context, m *move) error {
	var all []error
	for _, step := range []func(context.Context, *move) error{e.applyAhead, e.applyLinks, e.applyBehind} {
		err := step(ctx, m)
		all = append(all, err)
		if m.blamed(err) != nil {
			break
		}
	}
	return errors.Join(all...)
}

// insist is apply for what is wanted even if it fails. Those who were not asked any more
// know all the same what is wanted now, so that whoever mends has them do it.
func (e *Engine) insist(ctx context.Context, m *move) error {
	err := e.apply(ctx, m)
	if m.blamed(err) != nil {
		e.tell(m)
	}
	return err
}

func (e *Engine) applyAhead(ctx context.Context, m *move) error { return e.together(ctx, &e.ahead, m) }

func (e *Engine) applyBehind(ctx context.Context, m *move) error {
	return e.together(ctx, &e.behind, m)
}

// row are layers that work for one change after the other.
type row struct {
	layers []Layer
	want   *plan.Plan // what they were last told
	sure   bool       // that the host is like that; after a failure, nobody is
	turn   int        // the newest of the changes that it has
	next   *row       // which relies on this one, so it looks where this one had to
	prior  *row       // which this one relies on
	// waiting are changes on their way here. Whose turn it is takes all of them along. It
	// is guarded by the Engine's mu, all else by its host.
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
	e.host.Lock()
	defer e.host.Unlock()
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
	want, turn := r.want, r.turn
	err := r.apply(ctx, r.with(all...))
	if len(all) == 1 || onlyOfNetworks(err) {
		for _, p := range all {
			p.err = err
			// Who takes back what failed does not trust in what is remembered of it.
			r.sure = r.sure && p.blamed(err) == nil
		}
		return
	}
	for _, p := range all {
		r.want, r.turn = want, turn
		r.take(ctx, []*passenger{p})
		if onlyOfNetworks(p.err) {
			want, turn = r.want, r.turn
		}
	}
	r.want, r.turn = want, turn
}

// with is the plan of a row with what changes made of their networks.
func (r *row) with(all ...*passenger) *plan.Plan {
	want := r.want
	for _, p := range all {
		want = p.onto(want, &r.turn)
	}
	return want
}

// onto is a plan with what the change made of its networks. What concerns the host as a
// whole is taken from the newest change so far.
func (m *move) onto(p *plan.Plan, newest *int) *plan.Plan {
	next := *p
	if m.turn > *newest {
		next, *newest = *m.host, m.turn
		next.Networks = p.Networks
	}
	for _, id := range m.networks {
		next.Networks = next.Networks.As(m.after.Plan.Networks, id)
	}
	return &next
}

// apply walks the layers, first trusting what is remembered, then, after a failure, once
// more looking for itself.
func (r *row) apply(ctx context.Context, want *plan.Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	have := r.want
	if !r.sure {
		have = nil
	}
	r.want, r.sure = want, false // should a layer panic, the next one looks
	err := error(nil)
	if have != nil {
		err = r.walk(ctx, have, want)
	}
	if have == nil || err != nil {
		if r.next != nil {
			r.next.sure = false
		}
		err = r.walk(ctx, nil, r.within(want))
	}
	r.sure = onlyOfNetworks(err)
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
	next := *want
	for c := range tree.Diff(want.Networks, r.prior.want.Networks) {
		if c.Old != nil {
			next.Networks = next.Networks.As(r.prior.want.Networks, c.Key)
		}
	}
	return &next
}

// check asks the layers where the host differs from what they were told, and from what
// a change will tell them.
func (r *row) check(ctx context.Context, next *move) ([]plan.Drift, error) {
	newest := r.turn
	want := next.onto(r.want, &newest)
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
	var failed []error
	for _, l := range slices.Backward(r.layers) {
		failed = append(failed, l.Remove(ctx))
	}
	r.want, r.sure = nothing, false
	return errors.Join(failed...)
}

// links is the layer that works on several networks at once.
type links struct {
	layer Layer
	// looking is held by whoever needs all links to stand still, and shared by those who
	// change the links of one network. Nobody who only mends waits for it: he would keep
	// the others from it.
	looking sync.RWMutex
	// want and turn are as of a row. They are guarded by the Engine's mu.
	want *plan.Plan
	turn int
}

// applyLinks makes the links of a change's networks, and nobody else's. Of those that differ
// it looks at each, so that what failed once is tried again in the same way.
func (e *Engine) applyLinks(ctx context.Context, m *move) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	e.links.looking.RLock()
	defer e.links.looking.RUnlock()
	e.mu.Lock()
	have := e.links.want
	want := m.onto(have, &e.links.turn)
	e.links.want = want
	e.mu.Unlock()
	err := e.links.layer.Apply(ctx, have, want)
	if err != nil {
		err = e.links.layer.Apply(ctx, have, want)
	}
	return err
}

func (e *Engine) checkLinks(ctx context.Context, next *move) ([]plan.Drift, error) {
	e.mu.Lock()
	newest := e.links.turn
	want := next.onto(e.links.want, &newest)
	e.mu.Unlock()
	return e.links.layer.Check(ctx, want)
}

// remake makes everything right without trusting in anything, and returns what could not
// be. Drift names the networks that need it most, should others be under way.
func (e *Engine) remake(ctx context.Context, drift []plan.Drift) error {
	return errors.Join(e.redo(ctx, &e.ahead), e.relink(ctx, drift), e.redo(ctx, &e.behind))
}

// redo has a row look for itself.
func (e *Engine) redo(ctx context.Context, r *row) error {
	e.host.Lock()
	defer e.host.Unlock()
	e.mu.Lock()
	removed := e.removed
	e.mu.Unlock()
	if removed {
		return nil
	}
	r.sure = false
	return r.apply(ctx, r.want)
}

// relink has all links looked at if none is being changed, else the host's own and those of
// the networks that have drifted.
func (e *Engine) relink(ctx context.Context, drift []plan.Drift) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	if e.links.looking.TryLock() {
		defer e.links.looking.Unlock()
		e.mu.Lock()
		want := e.links.want
		e.mu.Unlock()
		return e.links.layer.Apply(ctx, nil, want)
	}
	m := e.occupy(drift)
	defer close(m.done)
	e.links.looking.RLock()
	defer e.links.looking.RUnlock()
	e.mu.Lock()
	want := e.links.want
	e.mu.Unlock()
	have := *want
	have.Uplinks = nil
	for _, id := range m.networks {
		have.Networks = have.Networks.Without(id)
	}
	return e.links.layer.Apply(ctx, &have, want)
}

// occupy takes the turn of those networks that have drifted and that nobody changes.
func (e *Engine) occupy(drift []plan.Drift) *move {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := &move{}
	for _, d := range drift {
		if id := d.Owner.Network; id != "" && e.turns.pending(id) == nil {
			m.networks = append(m.networks, id)
		}
	}
	e.turns.enter(m, slices.Clone(m.networks))
	return m
}

// tell lets everybody know what a change wants, and nobody make it so: whoever looks next
// will.
func (e *Engine) tell(m *move) {
	e.host.Lock()
	defer e.host.Unlock()
	for _, r := range []*row{&e.ahead, &e.behind} {
		r.want, r.sure = m.onto(r.want, &r.turn), false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links.want = m.onto(e.links.want, &e.links.turn)
	e.Wake()
}
