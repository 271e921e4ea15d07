package proxy

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// seldom is how often a cause for complaint is logged, at most. Whoever is outside
// can give us one with every packet.
const seldom = time.Minute

// grumbler logs each kind of complaint now and then.
type grumbler struct {
	log logrus.FieldLogger

	mu    sync.Mutex
	kinds map[string]*complaint
}

type complaint struct {
	next   time.Time
	unsaid int
}

// warn logs what, of a port, with the cause if there is one, unless the same was
// logged of some port within the last minute.
func (g *grumbler) warn(port, what string, cause error) {
	unsaid, due := g.due(what, time.Now())
	if !due {
		return
	}
	log := g.log.WithField("port", port)
	if unsaid > 0 {
		log = log.WithField("unsaid", unsaid)
	}
	if cause != nil {
		log = log.WithError(cause)
	}
	log.Warn("proxy: " + what)
}

// due reports whether it is time to say something, and how often it was not said
// since the last time.
func (g *grumbler) due(what string, now time.Time) (unsaid int, due bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.kinds[what]
	if c == nil {
		if g.kinds == nil {
			g.kinds = map[string]*complaint{}
		}
		c = &complaint{}
		g.kinds[what] = c
	}
	if now.Before(c.next) {
		c.unsaid++
		return 0, false
	}
	unsaid, c.unsaid, c.next = c.unsaid, 0, now.Add(seldom)
	return unsaid, true
}
