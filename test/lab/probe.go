package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	probeEvery = 50 * time.Millisecond
	// probePatience is less than the second after which a client repeats what was lost
	// (RFC 6298), so that each answer tells of the moment of its own question.
	probePatience = 900 * time.Millisecond
	// probesSteady is how many answers in a row show that a gap is over.
	probesSteady = 5
	// probeLate is when a question counts as lost if as many later ones were answered.
	probeLate = 300 * time.Millisecond
	// probesAtMost is how many questions of one kind wait at a time.
	probesAtMost = 40
)

// Question is asked within a limit, by a new connection each time.
type Question func(wait time.Duration) error

// Probes ask questions twenty times a second each, whether or not those before were
// answered, and remember when.
type Probes struct {
	t         testing.TB
	questions map[string]Question
	forbidden map[string]Question
	yardstick Question
	end       chan struct{}
	asking    sync.WaitGroup

	mu      sync.Mutex
	asked   map[string][]*probe // since the last Forget, in order
	waiting map[string]int
}

type probe struct {
	at       time.Time
	took     time.Duration // until it was answered or given up; 0 before
	answered bool
	err      error
}

// Probe asks questions, by what they are called, until the test ends: those that are to be
// answered, and those that nobody may answer. The yardstick is one that is always answered
// and tells how busy the machine is.
func Probe(t testing.TB, yardstick Question, questions, forbidden map[string]Question) *Probes {
	t.Helper()
	p := &Probes{
		t: t, questions: questions, forbidden: forbidden, yardstick: yardstick,
		end: make(chan struct{}), asked: map[string][]*probe{}, waiting: map[string]int{},
	}
	p.asking.Go(p.run)
	t.Cleanup(p.Stop)
	return p
}

// Stop asks no more and waits for the answers. It may be called again.
func (p *Probes) Stop() {
	p.mu.Lock()
	select {
	case <-p.end:
	default:
		close(p.end)
	}
	p.mu.Unlock()
	p.asking.Wait()
}

// yardstick is what that question is called.
const yardstick = "yardstick"

func (p *Probes) run() {
	pace := time.NewTicker(probeEvery)
	defer pace.Stop()
	for {
		select {
		case <-p.end:
			return
		case <-pace.C:
		}
		for name, ask := range p.questions {
			p.ask(name, ask)
		}
		for name, ask := range p.forbidden {
			p.ask(name, ask)
		}
		p.ask(yardstick, p.yardstick)
	}
}

func (p *Probes) ask(name string, ask Question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[name] >= probesAtMost {
		return
	}
	one := &probe{at: time.Now()}
	p.asked[name] = append(p.asked[name], one)
	p.waiting[name]++
	p.asking.Go(func() {
		err := ask(probePatience)
		p.mu.Lock()
		defer p.mu.Unlock()
		one.answered, one.err, one.took = err == nil, err, time.Since(one.at)
		p.waiting[name]--
	})
}

// Gap is what a change did to those who ask.
type Gap struct {
	Lost    int                      // questions that were not answered
	Passed  int                      // questions that were answered and must not be
	Healed  time.Duration            // when all were answered again, since the change; 0 if there was no gap after it
	ByName  map[string]time.Duration // the same by question
	LastErr error                    // of the last that was not answered
	Shut    time.Duration            // when the last passed that must not, since the change
}

// String is e.g. "healed in 87ms (31 lost: a to b, from outside)" or "no gap".
func (g Gap) String() string {
	text := "no gap"
	if g.Lost > 0 {
		names := strings.Join(slices.Sorted(maps.Keys(g.ByName)), ", ")
		text = fmt.Sprintf("healed in %dms (%d lost: %s)", g.Healed.Milliseconds(), g.Lost, names)
	}
	if g.Passed > 0 {
		text += fmt.Sprintf(", %d passed that must not", g.Passed)
	}
	return text
}

// Forget drops what is known: a gap is looked for from here on.
func (p *Probes) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.asked)
}

// Steady waits until every question is answered again and again since the change, which
// was over at that moment, and tells of the gap since the last Forget. It fails the test
// where that takes longer than a limit.
func (p *Probes) Steady(what string, change time.Time, limit time.Duration) Gap {
	p.t.Helper()
	var gap Gap
	within(p.t, limit+30*time.Second, what+": all is answered again", func() error {
		var err error
		gap, err = p.gap(change)
		return err
	})
	slack := p.Slack()
	if gap.Healed > limit+slack {
		p.t.Errorf("%s: %s, want within %v and %v; the last that was not answered: %v", what, gap, limit, slack, gap.LastErr)
	}
	if gap.Shut > limit+slack {
		p.t.Errorf("%s: %s, the last after %v, want nothing open after %v and %v", what, gap, gap.Shut, limit, slack)
	}
	return gap
}

// Slack is for how much longer something may take because the machine has been busy since
// the last Forget: whoever mends waits for his turn several times.
func (p *Probes) Slack() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	const turns = 10
	var worst time.Duration
	for _, one := range p.asked[yardstick] {
		worst = max(worst, one.took)
	}
	return turns * worst
}

func (p *Probes) gap(change time.Time) (Gap, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := Gap{ByName: map[string]time.Duration{}}
	for name := range p.questions {
		asked := known(p.asked[name])
		lost := lastLost(asked)
		after := asked[lost+1:]
		if len(after) < probesSteady || after[len(after)-probesSteady].at.Before(change) {
			if lost >= 0 {
				return g, fmt.Errorf("%s: %d answers in a row: %w", name, len(after), asked[lost].cause())
			}
			return g, fmt.Errorf("%s: %d answers in a row", name, len(after))
		}
		if lost < 0 {
			continue
		}
		for _, one := range asked[:lost+1] {
			if !one.answered {
				g.Lost++
			}
		}
		g.ByName[name] = max(0, after[0].at.Sub(change))
		if g.Healed <= g.ByName[name] {
			g.Healed, g.LastErr = g.ByName[name], asked[lost].cause()
		}
	}
	for name := range p.forbidden {
		for _, one := range p.asked[name] {
			if one.answered {
				g.Passed++
				g.Shut = max(g.Shut, one.at.Sub(change))
			}
		}
	}
	return g, nil
}

// known are the questions up to the first of which nobody knows yet whether it is lost:
// one that still waits, unless it is late and a later one was answered.
func known(asked []*probe) []*probe {
	answered := false
	for i := len(asked) - 1; i >= 0; i-- {
		one := asked[i]
		answered = answered || one.answered
		if one.took == 0 && (!answered || time.Since(one.at) < probeLate) {
			asked = asked[:i]
		}
	}
	return asked
}

// cause is why it was not answered.
func (one *probe) cause() error {
	if one.took == 0 {
		return errors.New("no answer yet")
	}
	return one.err
}

// lastLost is the index of the last question that was not answered; -1 for none.
func lastLost(asked []*probe) int {
	for i := len(asked) - 1; i >= 0; i-- {
		if !asked[i].answered {
			return i
		}
	}
	return -1
}
