// Package publish holds the host's ports that are published, so that nobody else
// can take them and a port that is taken is refused by name.
//
// It translates nothing: what arrives at a held port is meant to be translated by the
// firewall before it gets to a socket. What is not is served by a proxy, if the plan
// says so, or dropped: a packet that came in a gap of the firewall is sent again.
package publish

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/tree"
)

// A Server serves clients on sockets that hold ports (proxy.Proxy).
type Server interface {
	// Serve begins to serve a socket, or changes where its clients are led.
	Serve(fd int, r proxy.Route) error
	// Forget ends that, before the socket is closed, whether or not it is served.
	Forget(fd int)
	// Files is how many it may have open at most.
	Files() int
}

var _ Server = (*proxy.Proxy)(nil)

// Ports is the layer that holds ports. Create it with New.
type Ports struct {
	server   Server
	internal *Internal

	mu    sync.Mutex
	held  map[plan.Owner]sockets
	taken map[plan.Owner]place // of whoever lacks something, what could not be had

	others atomic.Pointer[holders] // who had what was in the way of the last Check
}

// sockets are those of one endpoint.
type sockets map[place]*socket

// New makes a layer that holds nothing yet, whose sockets a server serves, and that
// says which networks are internal.
func New(server Server, internal *Internal) *Ports {
	return &Ports{server: server, internal: internal, held: map[plan.Owner]sockets{}, taken: map[plan.Owner]place{}}
}

// claim is what one endpoint shall hold.
type claim struct {
	owner plan.Owner
	ports []plan.Held
}

// Apply holds the ports that want has and lets go of all others but those that are
// reserved. Of an endpoint that cannot have all, none of the missing ones is held.
func (p *Ports) Apply(_ context.Context, have, want *plan.Plan) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.internal.update(have, want)
	claims := changed(have, want)
	if have == nil {
		claims = p.withHeld(claims)
		clear(p.taken)
	}
	p.release(claims)
	var failed []error
	others := &holders{}
	for _, c := range claims {
		if err := p.hold(c, others); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// changed are the claims in which two plans differ, as far as the kernel has sockets for
// them; all of want's if have is nil.
func changed(have, want *plan.Plan) []claim {
	if have == nil {
		have = &plan.Plan{}
	}
	sctp := sync.OnceValue(hasSCTP)
	var all []claim
	for n := range tree.Diff(have.Networks, want.Networks) {
		for e := range plan.DiffEndpoints(n.Old, n.New) {
			if old, now := ports(e.Old), ports(e.New); !slices.Equal(old, now) {
				all = append(all, claim{plan.Owner{Network: n.Key, Endpoint: e.Key}, holdable(now, sctp)})
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

// withHeld adds empty claims for whoever holds something and claims nothing, in the
// order of the owners.
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

// release closes what the claims no longer contain and nobody reserved. It comes
// before any hold: a port may pass from one endpoint to another.
func (p *Ports) release(claims []claim) {
	for _, c := range claims {
		delete(p.taken, c.owner)
		held := p.held[c.owner]
		if len(held) == 0 {
			continue
		}
		keep := make(map[place]bool, len(held))
		for at := range places(c.ports) {
			keep[at] = true
		}
		p.drop(c.owner, func(at place, s *socket) bool { return !keep[at] && !p.rests(s) })
	}
}

// rests has a socket serve nobody if it is reserved, and reports whether it does.
func (p *Ports) rests(s *socket) bool {
	s.planned = false
	return s.reserved > 0 && p.serve(s, proxy.Route{}) == nil
}

// drop closes those of an owner's sockets that which names.
func (p *Ports) drop(owner plan.Owner, which func(place, *socket) bool) {
	held := p.held[owner]
	for at, s := range held {
		if which(at, s) {
			p.close(s)
			delete(held, at)
		}
	}
	if len(held) == 0 {
		delete(p.held, owner)
	}
}

// hold opens what of a claim is not held yet: all of it, or none. What is held may have
// to serve others than before.
func (p *Ports) hold(c claim, others *holders) error {
	held := p.held[c.owner]
	var missing []need
	var failed []error
	for at, r := range places(c.ports) {
		s, ok := held[at]
		if !ok {
			missing = append(missing, need{at, r})
			continue
		}
		s.planned = true
		if err := p.serve(s, r); err != nil {
			failed = append(failed, &plan.ObjectError{Owner: c.owner, Object: at.String(), Err: err})
		}
	}
	failed = append(failed, p.open(c.owner, missing, others))
	for _, n := range missing {
		if s := p.held[c.owner][n.place]; s != nil {
			s.planned = true
		}
	}
	return errors.Join(failed...)
}

// need is a place that is not held yet.
type need struct {
	place
	route proxy.Route
}

// open holds places for an owner: all of them, or none.
func (p *Ports) open(owner plan.Owner, missing []need, others *holders) error {
	if len(missing) == 0 {
		return nil
	}
	if err := p.fits(len(missing)); err != nil {
		return &plan.ObjectError{Owner: owner, Object: missing[0].String(), Err: err}
	}
	opened := make(sockets, len(missing))
	for _, n := range missing {
		s, err := p.openAt(n.place, n.route)
		if err != nil {
			p.closeAll(opened)
			if awaits(err) {
				p.taken[owner] = n.place
			}
			return &plan.ObjectError{Owner: owner, Object: n.String(), Err: explain(n.place, err, others)}
		}
		opened[n.place] = s
	}
	if p.held[owner] == nil {
		p.held[owner] = opened
		return nil
	}
	maps.Copy(p.held[owner], opened)
	return nil
}

// openAt holds one place and has it served.
func (p *Ports) openAt(at place, r proxy.Route) (*socket, error) {
	s, err := open(at, r)
	if err != nil || !serves(r) {
		return s, err
	}
	if err := p.server.Serve(s.fd, r); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// serve changes who is served on a socket, and where. Nobody is let in who then waits
// for the server.
func (p *Ports) serve(s *socket, r proxy.Route) error {
	switch {
	case r == s.route:
		return nil
	case serves(r):
		if err := s.grow(r.Proto); err != nil {
			return err
		}
		if err := p.server.Serve(s.fd, r); err != nil {
			return err
		}
		return s.filter(r)
	}
	err := s.filter(r)
	p.server.Forget(s.fd)
	return err
}

// close lets the server forget a socket in any case: one that could not be filtered
// anew may be served, though it is not said to, and its number will be another's.
func (p *Ports) close(s *socket) {
	p.server.Forget(s.fd)
	s.close()
}

func (p *Ports) closeAll(held sockets) {
	for _, s := range held {
		p.close(s)
	}
}

// Remove lets go of everything.
func (p *Ports) Remove(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, held := range p.held {
		p.closeAll(held)
	}
	clear(p.held)
	clear(p.taken)
	return nil
}
