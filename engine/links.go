package engine

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// links is the layer that works on several networks at once.
type links struct {
	layer Links
	// looking is held by whoever needs all links to stand still, and shared by those who
	// change the links of one network.
	looking sync.RWMutex
	// want and turn are as of a row. They and mends are guarded by the Engine's mu.
	want *plan.Plan
	turn int
	// mends are the networks that are being mended, or wait for their turn. It says whether
	// somebody has seen since that there may be more to do.
	mends map[spec.ID]bool
}

// applyLinks makes the links of a change's networks, and nobody else's. Of those that differ
// it looks at each, so that what failed once is tried again in the same way.
func (e *Engine) applyLinks(ctx context.Context, m *move) error {
	ctx, cancel := bounded(ctx)
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
	if reflect.DeepEqual(have.Uplinks, want.Uplinks) {
		return err
	}
	return errors.Join(err, e.catchUp(ctx, want))
}

// catchUp is for those who told the links what concerns the host as a whole. Nobody keeps
// them in order, so each sees to it that what is wanted now was told last.
func (e *Engine) catchUp(ctx context.Context, told *plan.Plan) error {
	var failed []error
	for {
		e.mu.Lock()
		uplinks := e.links.want.Uplinks
		e.mu.Unlock()
		if reflect.DeepEqual(told.Uplinks, uplinks) {
			return errors.Join(failed...)
		}
		next := *told
		next.Uplinks = uplinks
		failed = append(failed, e.links.layer.Apply(ctx, told, &next))
		told = &next
	}
}

// relink has all links looked at while nobody changes any.
func (e *Engine) relink(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	e.links.looking.Lock()
	defer e.links.looking.Unlock()
	return e.links.layer.Apply(ctx, nil, e.linked())
}

// unlinkAll takes all links of ours off the host.
func (e *Engine) unlinkAll(ctx context.Context, nothing *plan.Plan) error {
	e.links.looking.Lock()
	defer e.links.looking.Unlock()
	err := e.links.layer.Remove(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links.want = nothing
	return err
}

// linked is what the links were last told.
func (e *Engine) linked() *plan.Plan {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.links.want
}

// tend makes the links of networks right, each in a turn of its own, for whatever is seen of
// one that is being changed may be right by then. "" stands for what is no network's. After
// that, some are looked at again.
func (e *Engine) tend(ctx context.Context, networks, again []spec.ID) {
	slices.Sort(networks)
	var all []func()
	for _, id := range slices.Compact(networks) {
		if m := e.enterMend(id, slices.Contains(again, id)); m != nil {
			all = append(all, func() { e.mendLinks(ctx, m, id) })
		}
	}
	e.abreast(all...)
}

// enterMend is nil for a network that is being mended already, which is looked at again then.
func (e *Engine) enterMend(network spec.ID, again bool) *move {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.removed {
		return nil
	}
	if _, underWay := e.links.mends[network]; underWay {
		e.links.mends[network] = true
		return nil
	}
	e.links.mends[network] = again
	m := &move{networks: []spec.ID{network}}
	e.turns.enter(m, []spec.ID{network})
	return m
}

func (e *Engine) mendLinks(ctx context.Context, m *move, network spec.ID) {
	defer e.endMend(network)
	m.await()
	if done, err := e.inTurn(ctx, m, network); done {
		e.mended(network, drifts(err))
	}
}

func (e *Engine) endMend(network spec.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.links.mends[network] {
		e.Wake()
	}
	delete(e.links.mends, network)
}

// inTurn mends what is one network's. It reports whether that could be tried.
func (e *Engine) inTurn(ctx context.Context, m *move, network spec.ID) (done bool, err error) {
	defer close(m.done)
	ctx, cancel := bounded(ctx)
	defer cancel()
	e.links.looking.RLock()
	defer e.links.looking.RUnlock()
	want := e.linked()
	if network != "" {
		return true, e.links.layer.Mend(ctx, want, network)
	}
	if !e.agreed(want) {
		e.again(network) // when whoever changes what concerns the host has got there
		return false, nil
	}
	err = errors.Join(e.links.layer.Mend(ctx, want, network), e.catchUp(ctx, want))
	if !e.agreed(want) { // what was put back meanwhile may have been set again
		err = errors.Join(err, e.redo(ctx, &e.ahead))
	}
	return true, err
}

// agreed reports whether the row that puts back what was set of the host's own links has
// been told the same of them as the links.
func (e *Engine) agreed(want *plan.Plan) bool {
	return reflect.DeepEqual(e.ahead.want.Load().Uplinks, want.Uplinks)
}

func (e *Engine) again(network spec.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links.mends[network] = true
}

// checkLinks tells of networks that are being changed only that they look wrong.
func (e *Engine) checkLinks(ctx context.Context, next *move) (f findings, err error) {
	e.mu.Lock()
	newest := e.links.turn
	want := next.onto(e.links.want, &newest)
	before, busy := e.links.want, e.turns.busy()
	e.mu.Unlock()
	agreed := e.agreed(before)
	all, err := e.links.layer.Check(ctx, want)
	e.mu.Lock()
	after := e.links.want
	maps.Copy(busy, e.turns.busy())
	e.mu.Unlock()
	busy[""] = !agreed || !e.agreed(after)
	for _, d := range all {
		id := d.Owner.Network
		was, _ := before.Networks.Get(id)
		is, _ := after.Networks.Get(id)
		if busy[id] || was != is {
			f.unsteady = append(f.unsteady, id)
			if d.Field == plan.PairField { // no mend buries the dead
				f.again = append(f.again, id)
			}
		} else {
			f.links = append(f.links, d)
		}
	}
	return f, err
}
