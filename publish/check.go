package publish

import (
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
// are held and neither planned nor reserved.
func (p *Ports) Check(_ context.Context, want *plan.Plan) ([]plan.Drift, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var drift []plan.Drift
	others := &holders{}
	for _, c := range p.withHeld(changed(nil, want)) {
		held, surplus := p.held[c.owner], 0
		for _, s := range held {
			if !s.reserved {
				surplus++
			}
		}
		for _, r := range c.ports {
			got := 0
			for at, route := range places([]plan.Held{r}) {
				if s, ok := held[at]; ok && !s.reserved && s.route == route {
					got++
				}
			}
			surplus -= got
			if got < int(r.Count) {
				drift = append(drift, missing(c.owner, r, got, others))
			}
		}
		if surplus > 0 {
			drift = append(drift, plan.Drift{Owner: c.owner, Object: c.owner.String(), Field: "unplanned ports held", Got: strconv.Itoa(surplus)})
		}
	}
	return drift, nil
}

// missing says how much of a range is held, and who has the first that somebody has.
func missing(owner plan.Owner, r plan.Held, got int, others *holders) plan.Drift {
	d := plan.Drift{Owner: owner, Object: named(r.Port), Field: "held", Want: strconv.Itoa(int(r.Count))}
	if got > 0 {
		d.Got = strconv.Itoa(got)
	}
	for at := range places([]plan.Held{r}) {
		by := others.of(at)
		switch {
		case by == "":
			continue
		case r.Count == 1:
			d.Got = "taken by " + by
		default:
			d.Got = fmt.Sprintf("%d, %d is taken by %s", got, at.port, by)
		}
		break
	}
	return d
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
