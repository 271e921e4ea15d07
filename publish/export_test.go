package publish

import "github.com/drawbridge-net/drawbridge/spec"

// HasSCTP lets tests ask as the layer does.
func HasSCTP() bool { return hasSCTP() }

// Freed lets tests ask as Watch does.
func (p *Ports) Freed() bool { return p.freed() }

// Explain says why a port cannot be held.
func Explain(p spec.Port, err error) error {
	return explain(place{p.Proto, p.Host, p.HostPort}, err, &holders{})
}
