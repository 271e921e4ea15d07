package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
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
	lookAgain = time.Second // after the host could not be looked at
)

// Wake asks Run to look at the host soon. It never waits.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default: // one is pending, which will see this too
	}
}

// Run keeps the host as planned until ctx ends: after every Wake and at least every
// half minute it looks, and mends what differs. What waits for one network it has others do.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(mendAtMax)
	defer tick.Stop()
	defer e.errands.Wait()
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

// begin has all be done at once.
func (e *Engine) begin(all ...func()) *sync.WaitGroup {
	some := &sync.WaitGroup{}
	for _, f := range all {
		some.Go(func() {
			defer e.survive()
			f()
		})
	}
	return some
}

// abreast has all be done at once, and waits for them, but not for one that is stuck.
func (e *Engine) abreast(all ...func()) {
	if len(all) == 0 {
		return
	}
	done, some := make(chan struct{}), e.begin(all...)
	e.errands.Go(func() {
		some.Wait()
		close(done)
	})
	select {
	case <-done:
	case <-time.After(mendPause):
	}
}

// survive keeps a layer that panics from ending the daemon, as the server does for a request.
func (e *Engine) survive() {
	if cause := recover(); cause != nil {
		e.log.WithField("stack", string(debug.Stack())).Errorf("internal error: %v", cause)
		time.AfterFunc(lookAgain, e.Wake)
	}
}

// reconcile mends the host and buries the endpoints that died without a word: an
// engine that was killed never says that their sandboxes are gone.
func (e *Engine) reconcile(ctx context.Context) {
	host, err := e.observer.Look(ctx)
	if err != nil {
		e.log.WithError(err).Warn("look at the host")
		time.AfterFunc(lookAgain, e.Wake) // what woke us will not do so again
		return
	}
	var dead []func()
	for _, d := range e.mend(ctx, host) {
		if d.Field == plan.PairField {
			dead = append(dead, func() { e.bury(ctx, d.Owner.Network, d.Owner.Endpoint, "whose sandbox is gone") })
		}
	}
	e.abreast(dead...)
}

// mend takes in what the host has become and, if it is not as planned, makes it so
// by the same way as a request does. It returns what it found to differ.
func (e *Engine) mend(ctx context.Context, host *plan.Host) []plan.Drift {
	if !e.follow(ctx, host) {
		return nil
	}
	found, err := e.check(ctx, &move{})
	if err != nil {
		e.log.WithError(err).Warn("check the host")
	}
	now := time.Now()
	due := e.feuds.due(found.all(), now)
	failed := e.stillFailed()
	retry := failures{e.feuds.due(failed.rows, now), e.feuds.due(failed.links, now)}
	networks := found.unsteady
	for _, d := range slices.Concat(e.feuds.due(found.links, now), retry.links) {
		networks = append(networks, d.Owner.Network)
	}
	if err == nil && len(due) == 0 && len(retry.rows)+len(retry.links) == 0 {
		e.tend(ctx, networks, found.again)
		return nil
	}
	for _, d := range due {
		e.log.WithField("object", d.Object).Infof("mend %s", d)
	}
	e.note(due, now)
	ahead := e.redo(ctx, &e.ahead)
	e.tend(ctx, networks, found.again)
	e.redone(drifts(errors.Join(ahead, e.redo(ctx, &e.behind))))
	return found.all()
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

// follow makes the plan that of the host as it is now, and applies what that changes, each
// network in its turn. It reports whether there is anything to keep in order.
func (e *Engine) follow(ctx context.Context, host *plan.Host) bool {
	e.mu.Lock()
	before, removed, newest := e.Now(), e.removed, &move{turn: e.turn}
	var moves []*move
	if !removed && !reflect.DeepEqual(host, before.Plan.Host) {
		moves = e.enterHost(host)
	}
	e.mu.Unlock()
	if removed {
		return false
	}
	if err := e.save(newest); err != nil {
		e.log.WithError(err).Warn("save what an undone change left in the store")
	}
	if moves == nil {
		return true
	}
	e.log.WithField("facts", plan.New(spec.State{}, host).String()).Info("the host has changed")
	var all []func()
	for _, m := range moves {
		all = append(all, func() {
			defer close(m.done)
			m.await()
			was := *m.after.Plan
			for _, id := range m.networks {
				was.Networks = was.Networks.As(before.Plan.Networks, id)
			}
			e.settle(&was, m.after.Plan, e.insist(ctx, m))
		})
	}
	e.abreast(all...)
	return true
}

// enterHost makes the plan that of another host. What concerns it as a whole is one change,
// and each network that differs is another. mu is held.
func (e *Engine) enterHost(host *plan.Host) []*move {
	now := e.Now()
	before := now.Plan
	now.Plan = before.Next(now.State, now.State, host)
	e.now.Store(&now)
	moves := []*move{{}}
	for _, id := range touchedNetworks(before, now.Plan) {
		moves = append(moves, &move{networks: []spec.ID{id}})
	}
	for _, m := range moves {
		e.turn++
		// Nobody asked for it, so nobody is refused.
		m.turn, m.before, m.after, m.host = e.turn, now, now, now.Plan
		e.turns.enter(m, slices.Clone(m.networks))
	}
	return moves
}

// checkPatience is how long a Check waits for what is under way.
const checkPatience = time.Second

// Check reports where the host differs from what it should have now, which is not
// the present plan if the host has just changed.
func (e *Engine) Check(ctx context.Context) ([]plan.Drift, error) {
	soon, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	e.Await(soon)
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
	found, err := e.check(ctx, next)
	return found.all(), err
}

// findings are where the host differs.
type findings struct {
	rows, links []plan.Drift
	unsteady    []spec.ID // networks whose links were being changed meanwhile, and looked wrong
	again       []spec.ID // those of them in which somebody may have died
}

func (f findings) all() []plan.Drift { return slices.Concat(f.rows, f.links) }

// check asks all layers, each also if another could not tell. Links that may only look wrong
// because they are being changed meanwhile are left out.
func (e *Engine) check(ctx context.Context, next *move) (findings, error) {
	ahead, failed := e.ahead.check(ctx, next)
	f, err := e.checkLinks(ctx, next)
	behind, last := e.behind.check(ctx, next)
	f.rows = slices.Concat(ahead, behind)
	return f, errors.Join(failed, err, last)
}
