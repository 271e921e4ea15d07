package engine

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// The reconcile clock: the first mend starts at the event, later ones wait, and
// without any event the host is looked at all the same.
const (
	mendPause = 200 * time.Millisecond
	mendAtMax = 30 * time.Second
)

// Wake asks Run to look at the host soon. It never waits.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default: // one is pending, which will see this too
	}
}

// Run keeps the host as planned until ctx ends: after every Wake and at least every
// half minute it looks, and mends what differs.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(mendAtMax)
	defer tick.Stop()
	idle := map[*spec.Endpoint]int{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			idle = e.buryForgotten(ctx, idle)
		case <-e.wake:
		}
		e.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(mendPause):
		}
	}
}

// reconcile mends the host and buries the endpoints that died without a word: an
// engine that was killed never says that their sandboxes are gone.
func (e *Engine) reconcile(ctx context.Context) {
	host, err := e.observer.Look(ctx)
	if err != nil {
		e.log.WithError(err).Warn("look at the host")
		return
	}
	for _, d := range e.mend(ctx, host) {
		if d.Field != plan.PairField {
			continue
		}
		e.bury(ctx, d.Owner.Network, d.Owner.Endpoint, "whose sandbox is gone")
	}
}

// mend takes in what the host has become and, if it is not as planned, makes it so
// by the same way as a request does. It returns what it found to differ.
func (e *Engine) mend(ctx context.Context, host *plan.Host) []plan.Drift {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.removed {
		return nil
	}
	before := e.Now()
	if err := e.save(before.State); err != nil {
		e.log.WithError(err).Warn("save what an undone change left in the store")
	}
	want := before.planFor(host)
	if want != before.Plan {
		e.log.WithField("facts", plan.New(spec.State{}, host).String()).Info("the host has changed")
	}
	drift, err := e.check(ctx, want)
	if err != nil {
		e.log.WithError(err).Warn("check the host")
	}
	broken := err != nil || len(drift) > 0 || len(before.Drift) > 0
	if want == before.Plan && !broken {
		return nil
	}
	for _, d := range drift {
		e.log.WithField("object", d.Object).Infof("mend %s", d)
	}
	if broken {
		e.have = nil
	}
	// What still differs afterwards waits for the next event or tick.
	e.publish(before.State, want, drifts(e.apply(ctx, want)))
	return drift
}

// planFor is the Plan of the same State for the host as it is now.
func (s Snapshot) planFor(host *plan.Host) *plan.Plan {
	if reflect.DeepEqual(host, s.Plan.Host) {
		return s.Plan
	}
	return s.Plan.Next(s.State, s.State, host)
}

// Check reports where the host differs from what it should have now, which is not
// the present plan if the host has just changed.
func (e *Engine) Check(ctx context.Context) ([]plan.Drift, error) {
	host, err := e.observer.Look(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.check(ctx, e.Now().planFor(host))
}

func (e *Engine) check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	var all []plan.Drift
	for _, l := range e.layers {
		drift, err := l.Check(ctx, want)
		if err != nil {
			return all, err
		}
		all = append(all, drift...)
	}
	return all, nil
}
