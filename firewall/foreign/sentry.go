package foreign

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

// sentry keeps what the last look for barriers found. What others' tables cost to be
// judged is theirs to decide, so no request waits for it, and all looks together take a
// small share of the time. The zero sentry is ready.
type sentry struct {
	once sync.Once
	poke chan struct{}           // holds one while a look is asked for
	due  atomic.Pointer[request] // nil if nobody waits for a look
	last atomic.Pointer[outlook]
}

// request asks for a look at what stops a plan.
type request struct{ want *plan.Plan }

// outlook is what a look has found.
type outlook struct {
	warnings []string
	rests    time.Time     // until when there will be no other
	over     chan struct{} // is closed when there is another
}

const (
	restAtLeast = 2 * time.Second
	restShare   = 30 // how often as long as it looked it rests
	patience    = time.Second
)

func (s *sentry) ready() *sentry {
	s.once.Do(func() {
		s.poke = make(chan struct{}, 1)
		s.last.Store(&outlook{over: make(chan struct{})})
	})
	return s
}

// ask has the sentry look soon. It never waits.
func (s *sentry) ask(want *plan.Plan) {
	s.ready().due.Store(&request{want})
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Guard looks for barriers after each change of networks and whenever Check looks at
// the host, but not all the time, until ctx ends. It tells Warn of those that are new.
func (r *Rules) Guard(ctx context.Context) error {
	s := r.sentry.ready()
	told := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		}
		began, asked := time.Now(), s.due.Load()
		if asked == nil {
			continue // the look before has seen to this one too
		}
		found := r.lookOut(asked.want)
		told = r.tell(found, told)
		rest := max(restAtLeast, restShare*time.Since(began))
		now := &outlook{rests: time.Now().Add(rest), over: make(chan struct{})}
		for _, b := range found {
			now.warnings = append(now.warnings, b.String())
		}
		s.due.CompareAndSwap(asked, nil) // unless it was asked for again meanwhile
		close(s.last.Swap(now).over)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// lookOut finds the barriers. That nobody could look is told in their place.
func (r *Rules) lookOut(want *plan.Plan) []Barrier {
	found, err := r.Barriers(want)
	if err != nil {
		return []Barrier{{unknown: err.Error()}}
	}
	return found
}

// tell tells of what was not told before, and returns what is told now.
func (r *Rules) tell(found []Barrier, before map[string]bool) map[string]bool {
	told := map[string]bool{}
	for _, b := range found {
		chain := b.Table + " " + b.Chain
		if told[chain] = true; !before[chain] && r.Warn != nil {
			r.Warn(b.String())
		}
	}
	return told
}

// Warnings are what the last look for barriers found. For one that is due and may
// begin, it waits a moment.
func (r *Rules) Warnings() []string {
	s := r.sentry.ready()
	last := s.last.Load()
	if s.due.Load() != nil && time.Now().After(last.rests) {
		select {
		case <-last.over:
		case <-time.After(patience):
		}
	}
	return s.last.Load().warnings
}
