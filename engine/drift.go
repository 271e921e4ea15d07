package engine

import (
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// failures are what could not be made right, as last seen, by who will have to try again.
type failures struct{ rows, links []plan.Drift }

// settle notes what went wrong with an apply from one plan to another, and what need not
// be so any more.
func (e *Engine) settle(before, after *plan.Plan, o outcome) {
	e.settled(&e.failed.rows, before, after, o.rows)
	e.settled(&e.failed.links, before, after, o.links)
}

// settled is settle for the rows alone, or for the links.
func (e *Engine) settled(failed *[]plan.Drift, before, after *plan.Plan, err error) {
	e.warn(drifts(err))
	e.mu.Lock()
	*failed = merge(untouched(*failed, before, after), drifts(err))
	e.tellDrift()
	e.mu.Unlock()
	if err != nil {
		e.Wake()
	}
}

// mended notes what could not be made right of a network's links, or else need not be so any
// more.
func (e *Engine) mended(network spec.ID, failed []plan.Drift) {
	e.warn(failed)
	e.mu.Lock()
	defer e.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(e.failed.links), func(d plan.Drift) bool { return d.Owner.Network == network })
	e.failed.links = append(others, failed...)
	e.tellDrift()
}

// redone notes what could not be made right of the rows.
func (e *Engine) redone(failed []plan.Drift) {
	e.warn(failed)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed.rows = failed
	e.tellDrift()
}

func (e *Engine) stillFailed() failures {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed
}

// tellDrift shows whoever reads what could not be made right. mu is held.
func (e *Engine) tellDrift() {
	now := e.Now()
	now.Drift = slices.Concat(e.failed.rows, e.failed.links)
	e.now.Store(&now)
}
