package engine

import (
	"context"
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
	want := before.Plan
	if !reflect.DeepEqual(host, want.Host) {
		want = want.Next(before.State, before.State, host)
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

// Check reports where the host differs from the present plan.
func (e *Engine) Check(ctx context.Context) ([]plan.Drift, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.check(ctx, e.Now().Plan)
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
