package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Check reports ports that are planned and not held, with who has them, and those that
// are held and neither planned nor reserved. To find out who has them takes long: it keeps no
// port from being held, and is done again only once another socket is in the way, or
// whoever was named has ended or calls himself otherwise.
func (p *Ports) Check(_ context.Context, want *plan.Plan) ([]plan.Drift, error) {
	drift, lacks := p.compare(want)
	if len(lacks) == 0 {
		p.others.Store(nil)
		return drift, nil
	}
	others := cmp.Or(p.others.Load(), &holders{})
	for _, l := range lacks {
		drift[l.at].Got = having(l.Held, l.got, others)
	}
	p.others.Store(others.kept())
	return drift, nil
}

// lack is a drift of which is to be found out who has the ports.
type lack struct {
	plan.Held
	at  int // among all drifts
	got int // how many of the ports are held
}

func (p *Ports) compare(want *plan.Plan) (drift []plan.Drift, lacks []lack) {
	claims := changed(nil, want)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.withHeld(claims) {
		held, surplus := p.held[c.owner], 0
		for _, s := range held {
			if s.planned {
				surplus++
			}
		}
		for _, r := range c.ports {
			got := 0
			for at, route := range places([]plan.Held{r}) {
				if s, ok := held[at]; ok && s.planned && s.route == route {
					got++
				}
			}
			surplus -= got
			if got < int(r.Count) {
				lacks = append(lacks, lack{r, len(drift), got})
				drift = append(drift, plan.Drift{Owner: c.owner, Object: named(r.Port), Field: "held", Want: strconv.Itoa(int(r.Count))})
			}
		}
		if surplus > 0 {
			drift = append(drift, plan.Drift{Owner: c.owner, Object: c.owner.String(), Field: "unplanned ports held", Got: strconv.Itoa(surplus)})
		}
	}
	return drift, lacks
}

// having says how much of a range is held, and who has the first that somebody has.
func having(r plan.Held, held int, others *holders) string {
	for at := range places([]plan.Held{r}) {
		switch by := others.of(at); {
		case by != "" && r.Count == 1:
			return "taken by " + by
		case by != "":
			return fmt.Sprintf("%d, %d is taken by %s", held, at.port, by)
		}
	}
	if held == 0 {
		return ""
	}
	return strconv.Itoa(held)
}

// awaits reports whether an error ends when somebody gives up a port, or the host gets
// an address. Any other one stays though the port be free: to be woken for it would be
// to fail again, every time.
func awaits(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// retryEvery is how often a port that somebody has is tried again: nothing tells when
// it is free.
const retryEvery = 2 * time.Second

// Watch wakes as soon as a port that could not be had can be, until ctx ends.
func (p *Ports) Watch(ctx context.Context, wake func()) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if p.freed() {
			wake()
		}
	}
}

// freed reports whether one of those that were taken no longer is.
func (p *Ports) freed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.taken {
		if s, err := open(at, proxy.Route{}); err == nil {
			s.close()
			return true
		}
	}
	return false
}

// Notices name the ports of a plan that are published and not held, since the kernel
// has no sockets for them.
func (p *Ports) Notices(want *plan.Plan) []string {
	sctp := sync.OnceValue(hasSCTP)
	var unheld []string
	for _, n := range want.Networks.All() {
		for _, e := range n.Endpoints.All() {
			for _, r := range e.Ports {
				if r.Proto == spec.SCTP && !sctp() {
					unheld = append(unheld, named(r.Port))
				}
			}
		}
	}
	if len(unheld) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("published and not held, since this kernel has no SCTP sockets now (modprobe sctp): %s", strings.Join(unheld, ", "))}
}
