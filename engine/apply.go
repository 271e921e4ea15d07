package engine

import (
	"context"
	"errors"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

// applyTimeout bounds the work of one row, or of the links, on the kernel for one request.
// An engine waits without limit, but what takes longer is stuck, not slow.
const applyTimeout = 30 * time.Second

// bounded is a context for work that is finished even if whoever asked for it has gone.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
}

// outcome is what went wrong, by who will have to try again.
type outcome struct{ rows, links error }

func (o outcome) err() error { return errors.Join(o.rows, o.links) }

// apply makes the host match what a change planned for its networks. It stops at what fails
// the change: nothing is let in where a drop could not be made.
func (e *Engine) apply(ctx context.Context, m *move) (o outcome) {
	o.rows = e.together(ctx, &e.ahead, m)
	if m.blamed(o.rows) == nil && !m.linksFollow {
		o.links = e.applyLinks(ctx, m)
	}
	if m.blamed(o.err()) == nil {
		o.rows = errors.Join(o.rows, e.together(ctx, &e.behind, m))
	}
	if e.lookIfAsked(ctx, &e.ahead) != nil {
		e.Wake()
	}
	return o
}

// insist is apply for what is wanted even if it fails. Those who were not asked any more
// know all the same what is wanted now, so that whoever mends has them do it.
func (e *Engine) insist(ctx context.Context, m *move) outcome {
	o := e.apply(ctx, m)
	if m.blamed(o.err()) != nil {
		e.tell(m)
	}
	return o
}

// remake makes everything right without trusting in anything.
func (e *Engine) remake(ctx context.Context) (o outcome) {
	ahead := e.redo(ctx, &e.ahead)
	o.links = e.relink(ctx)
	o.rows = errors.Join(ahead, e.redo(ctx, &e.behind))
	return o
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

// tell lets everybody know what a change wants, and nobody make it so: whoever looks next
// will.
func (e *Engine) tell(m *move) {
	e.ahead.tell(m)
	e.behind.tell(m)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links.want = m.onto(e.links.want, &e.links.turn)
	e.Wake()
}
