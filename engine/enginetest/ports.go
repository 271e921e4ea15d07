package enginetest

import (
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

var _ engine.Reserver = (*Ports)(nil)

// Ports is an engine.Reserver in memory, whose ephemeral ports are 32768 to 32771. The zero
// Ports is ready for use, and of a nil one every port is free.
type Ports struct {
	mu       sync.Mutex
	taken    []spec.Port
	err      error
	reserved []*reservation
}

type reservation struct {
	owner plan.Owner
	ports []spec.Port
}

// Take makes ports somebody else's.
func (p *Ports) Take(ports ...spec.Port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = append(p.taken, ports...)
}

// Fail makes every later Reserve fail, not because a port is taken; nil mends it.
func (p *Ports) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// Reserved are the ports that were reserved for an owner and not released.
func (p *Ports) Reserved(owner plan.Owner) []spec.Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []spec.Port
	for _, r := range p.reserved {
		if r.owner == owner {
			all = append(all, r.ports...)
		}
	}
	return all
}

// Reserve refuses what is taken by the same address and number.
func (p *Ports) Reserve(owner plan.Owner, ports []spec.Port) (release func(), err error) {
	if p == nil {
		return func() {}, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	for _, port := range ports {
		for _, t := range p.taken {
			if t.Proto == port.Proto && t.Host == port.Host && t.HostPort <= port.Last() && port.HostPort <= t.Last() {
				return nil, fmt.Errorf("port %d/%s: %w", port.HostPort, port.Proto, syscall.EADDRINUSE)
			}
		}
	}
	r := &reservation{owner, slices.Clone(ports)}
	p.reserved = append(p.reserved, r)
	return func() { p.forget(r) }, nil
}

func (p *Ports) forget(r *reservation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved = slices.DeleteFunc(p.reserved, func(other *reservation) bool { return other == r })
}

// Ephemeral are few, so that they can all be taken.
func (p *Ports) Ephemeral() ([]spec.PortRange, error) {
	return []spec.PortRange{{First: 32768, Last: 32771}}, nil
}
