package engine

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// The reconcile clock: the first mend starts at the event, later ones wait, and
// without any event the host is looked at all the same.
const (
	mendPause = 200 * time.Millisecond // from the start of one to that of the next
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
		case <-after(e.feuds.next(time.Now())):
		}
		pause := time.After(mendPause)
		e.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-pause:
		}
	}
}

// after is time.After for a moment; it never comes to the zero Time.
func after(moment time.Time) <-chan time.Time {
	if moment.IsZero() {
		return nil
	}
	return time.After(time.Until(moment))
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
	if !e.follow(ctx, host) {
		return nil
	}
	drift, unsteady, err := e.check(ctx, &move{})
	if err != nil {
		e.log.WithError(err).Warn("check the host")
	}
	if unsteady {
		e.Wake()
	}
	now := time.Now()
	due := e.feuds.due(drift, now)
	if err == nil && len(due) == 0 && len(e.feuds.due(e.Now().Drift, now)) == 0 {
		return nil
	}
	for _, d := range due {
		e.log.WithField("object", d.Object).Infof("mend %s", d)
	}
	e.note(due, now)
	failed := drifts(e.remake(ctx, drift))
	e.warn(failed)
	e.mu.Lock()
	defer e.mu.Unlock()
	snapshot := e.Now()
	snapshot.Drift = failed // what still differs waits for the next event or tick
	e.now.Store(&snapshot)
	return drift
}

// note says of what is being mended if it does not stay so.
func (e *Engine) note(due []plan.Drift, now time.Time) {
	var objects []string
	for _, d := range due {
		objects = append(objects, d.Object)
	}
	slices.Sort(objects)
	for _, object := range slices.Compact(objects) {
		if rest, news := e.feuds.mended(object, now); news {
			e.log.WithField("object", object).Warnf("somebody changes it again and again: it is left as it is for %s; "+
				"find out who that is, and have him leave alone what is drawbridge's", rest)
		}
	}
}

// warn tells of what could not be made right, unless it is known.
func (e *Engine) warn(failed []plan.Drift) {
	known := e.Now().Drift
	for _, d := range failed {
		if !slices.Contains(known, d) {
			e.log.WithFields(logrus.Fields{"owner": d.Owner.String(), "object": d.Object}).Warnf("left for the reconciler: %s", d.Got)
		}
	}
}

// follow makes the plan that of the host as it is now, and applies what that changes. It
// reports whether there is anything to keep in order.
func (e *Engine) follow(ctx context.Context, host *plan.Host) bool {
	e.mu.Lock()
	before, removed, newest := e.Now(), e.removed, &move{turn: e.turn}
	var m *move
	if !removed && !reflect.DeepEqual(host, before.Plan.Host) {
		m = e.enter(before.State, host)
		m.before = m.after // nobody asked for it, so nobody is refused
	}
	e.mu.Unlock()
	if removed {
		return false
	}
	if err := e.save(newest); err != nil {
		e.log.WithError(err).Warn("save what an undone change left in the store")
	}
	if m == nil {
		return true
	}
	defer close(m.done)
	e.log.WithField("facts", plan.New(spec.State{}, host).String()).Info("the host has changed")
	m.await()
	e.settle(before.Plan, m.after.Plan, e.insist(ctx, m))
	return true
}

// Check reports where the host differs from what it should have now, which is not
// the present plan if the host has just changed.
func (e *Engine) Check(ctx context.Context) ([]plan.Drift, error) {
	host, err := e.observer.Look(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	e.mu.Lock()
	now := e.Now()
	next := &move{turn: e.turn, after: now, host: now.Plan}
	e.mu.Unlock()
	if !reflect.DeepEqual(host, now.Plan.Host) {
		next.turn++
		next.after.Plan = now.Plan.Next(now.State, now.State, host)
		next.networks, next.host = touchedNetworks(now.Plan, next.after.Plan), next.after.Plan
	}
	drift, _, err := e.check(ctx, next)
	return drift, err
}

// check asks all layers. It leaves out what may only look wrong because it is being changed
// meanwhile, and reports whether it left out anything.
func (e *Engine) check(ctx context.Context, next *move) (drift []plan.Drift, unsteady bool, err error) {
	e.mu.Lock()
	before, busy := e.Now().Plan.Networks, e.turns.busy()
	e.mu.Unlock()
	rows, err := e.checkRow(ctx, &e.ahead, next)
	var links []plan.Drift
	if err == nil {
		links, err = e.checkLinks(ctx, next)
	}
	if err == nil {
		var behind []plan.Drift
		behind, err = e.checkRow(ctx, &e.behind, next)
		rows = append(rows, behind...)
	}
	e.mu.Lock()
	after := e.Now().Plan.Networks
	maps.Copy(busy, e.turns.busy())
	e.mu.Unlock()
	changing := func(d plan.Drift) bool {
		was, _ := before.Get(d.Owner.Network)
		is, _ := after.Get(d.Owner.Network)
		return busy[d.Owner.Network] || was != is
	}
	all := len(rows) + len(links)
	rows = slices.DeleteFunc(rows, changing)
	// A link of nobody's may be half made; a row is never looked at amid its work.
	links = slices.DeleteFunc(links, func(d plan.Drift) bool {
		return changing(d) || d.Owner == plan.Owner{} && (len(busy) > 0 || before != after)
	})
	drift = slices.Concat(rows, links)
	return drift, len(drift) < all, err
}

func (e *Engine) checkRow(ctx context.Context, r *row, next *move) ([]plan.Drift, error) {
	e.host.Lock()
	defer e.host.Unlock()
	return r.check(ctx, next)
}
