// Package publish holds the host's ports that are published, so that nobody else
// can take them and a port that is taken is refused by name.
//
// It serves nobody: what arrives at a held port is meant to be translated by the
// firewall before it gets to a socket, and what is not is refused at once, as at
// a closed port. So a client of localhost falls back from ::1 to 127.0.0.1.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Ports is the layer that holds ports. Create it with New.
type Ports struct {
	mu   sync.Mutex
	held map[plan.Owner]sockets
}

// sockets are those of one endpoint.
type sockets map[place]socket

// place is what one socket holds.
type place struct {
	proto spec.Proto
	host  netip.Addr // the zero Addr: every address of both families
	port  uint16
}

func (p place) String() string { return object(p.proto, p.host, strconv.Itoa(int(p.port))) }

// object names a port or a range, e.g. port 8080/tcp on 0.0.0.0.
func object(proto spec.Proto, host netip.Addr, numbers string) string {
	on := "every address"
	if host.IsValid() {
		on = host.String()
	}
	return fmt.Sprintf("port %s/%s on %s", numbers, proto, on)
}

// New makes a layer that holds nothing yet.
func New() *Ports { return &Ports{held: map[plan.Owner]sockets{}} }

// claim is what one endpoint shall hold.
type claim struct {
	owner plan.Owner
	ports []plan.Held
}

// Apply holds the ports that want has and lets go of all others. Of an endpoint
// that cannot have all, none of the missing ones is held.
func (p *Ports) Apply(_ context.Context, have, want *plan.Plan) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	claims := changed(have, want)
	if have == nil {
		claims = p.withHeld(claims)
	}
	p.release(claims)
	var failed []error
	for _, c := range claims {
		if err := p.hold(c); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// changed are the claims in which two plans differ; all of want's if have is nil.
func changed(have, want *plan.Plan) []claim {
	if have == nil {
		have = &plan.Plan{}
	}
	var all []claim
	for n := range tree.Diff(have.Networks, want.Networks) {
		for e := range plan.DiffEndpoints(n.Old, n.New) {
			if old, now := ports(e.Old), ports(e.New); !slices.Equal(old, now) {
				all = append(all, claim{plan.Owner{Network: n.Key, Endpoint: e.Key}, now})
			}
		}
	}
	return all
}

func ports(e *plan.Endpoint) []plan.Held {
	if e == nil {
		return nil
	}
	return e.Ports
}

// withHeld adds empty claims for whoever holds something and claims nothing, in
// the order of the owners.
func (p *Ports) withHeld(claims []claim) []claim {
	claiming := make(map[plan.Owner]bool, len(claims))
	for _, c := range claims {
		claiming[c.owner] = true
	}
	for owner := range p.held {
		if !claiming[owner] {
			claims = append(claims, claim{owner: owner})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.owner.Network.Compare(b.owner.Network), a.owner.Endpoint.Compare(b.owner.Endpoint))
	})
	return claims
}

// release closes what the claims no longer contain. It comes before any hold: a
// port may pass from one endpoint to another.
func (p *Ports) release(claims []claim) {
	for _, c := range claims {
		held := p.held[c.owner]
		if len(held) == 0 {
			continue
		}
		keep := make(map[place]bool, len(held))
		for at := range places(c.ports) {
			keep[at] = true
		}
		for at, s := range held {
			if !keep[at] {
				s.close()
				delete(held, at)
			}
		}
		if len(held) == 0 {
			delete(p.held, c.owner)
		}
	}
}

// hold opens what of a claim is not held yet: all of it, or none.
func (p *Ports) hold(c claim) error {
	held, opened := p.held[c.owner], sockets{}
	for at := range places(c.ports) {
		if _, ok := held[at]; ok {
			continue
		}
		s, err := open(at)
		if err != nil {
			opened.close()
			return &plan.ObjectError{Owner: c.owner, Object: at.String(), Err: p.explain(at, err, len(opened))}
		}
		opened[at] = s
	}
	if len(opened) == 0 {
		return nil
	}
	maps.Copy(opened, held)
	p.held[c.owner] = opened
	return nil
}

func (s sockets) close() {
	for _, one := range s {
		one.close()
	}
}

// places are the single ports of ranges.
func places(ports []plan.Held) iter.Seq[place] {
	return func(yield func(place) bool) {
		for _, r := range ports {
			for i := range r.Count {
				if !yield(place{r.Proto, r.Host, r.HostPort + i}) {
					return
				}
			}
		}
	}
}

// Check reports ports that are planned and not held, and those that are held and
// not planned.
func (p *Ports) Check(_ context.Context, want *plan.Plan) ([]plan.Drift, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var drift []plan.Drift
	for _, c := range p.withHeld(changed(nil, want)) {
		held, planned := p.held[c.owner], 0
		for _, r := range c.ports {
			got := 0
			for at := range places([]plan.Held{r}) {
				if _, ok := held[at]; ok {
					got++
				}
			}
			planned += got
			if got < int(r.Count) {
				drift = append(drift, missing(c.owner, r.Port, got))
			}
		}
		if surplus := len(held) - planned; surplus > 0 {
			drift = append(drift, plan.Drift{Owner: c.owner, Object: c.owner.String(), Field: "unplanned ports held", Got: strconv.Itoa(surplus)})
		}
	}
	return drift, nil
}

func missing(owner plan.Owner, r spec.Port, got int) plan.Drift {
	numbers := strconv.Itoa(int(r.HostPort))
	if r.Count > 1 {
		numbers = fmt.Sprintf("%d-%d", r.HostPort, r.Last())
	}
	d := plan.Drift{Owner: owner, Object: object(r.Proto, r.Host, numbers), Field: "held", Want: strconv.Itoa(int(r.Count))}
	if got > 0 {
		d.Got = strconv.Itoa(got)
	}
	return d
}

// Remove lets go of everything.
func (p *Ports) Remove(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, held := range p.held {
		held.close()
	}
	clear(p.held)
	return nil
}
