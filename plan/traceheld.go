package plan

import (
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/spec"
)

// host says what becomes of what is meant for the host and not translated: it reaches the
// socket of a held port, or whoever else listens.
func (t *trace) host() Fate {
	n, h, ok := t.heldAt(t.Proto, t.To)
	if !ok {
		return t.accept("the host itself")
	}
	serve := h.Proxy4
	if t.To.Addr().Is6() {
		serve = h.Proxy6
	}
	t.fate.Foreign = true
	switch {
	case !serve.To.IsValid(), !serve.All && t.To.Addr() != netip.IPv6Loopback() && !isLinkLocal6(t.From):
		return t.drop("the port is held, and served to others")
	case t.in != nil && t.in.Zone.Internal:
		return t.drop("nothing leaves an internal network")
	}
	t.fate.Foreign, t.fate.Proxied = false, true
	t.fate.Server = netip.AddrPortFrom(serve.To, h.ContainerPort+t.To.Port()-h.HostPort)
	t.fate.Client = n.addressFor(serve.To)
	return t.accept("by the proxy")
}

// heldAt is the held port that a port of the host's address is, and whose it is.
func (p *Plan) heldAt(proto spec.Proto, at netip.AddrPort) (*Network, Held, bool) {
	for _, n := range p.Networks.All() {
		for _, e := range n.Endpoints.All() {
			for _, h := range e.Ports {
				if h.holds(proto, at) {
					return n, h, true
				}
			}
		}
	}
	return nil, Held{}, false
}

func (h Held) holds(proto spec.Proto, at netip.AddrPort) bool {
	return h.Proto == proto && h.HostPort <= at.Port() && at.Port() <= h.Last() &&
		(!h.Host.IsValid() || h.Host == at.Addr() || h.Host == spec.Every(at.Addr().Is4()))
}

// unjudged says what becomes of what passes where there is no firewall of ours: what the
// host makes of it by itself.
func (t *trace) unjudged() Fate {
	forwards, routers := t.Host.Forwarding4, t.Host.Routers4
	if t.To.Addr().Is6() {
		forwards, routers = t.Host.Forwarding6, t.Host.Routers6
	}
	if t.In != "" && !forwards && !slices.Contains(routers, t.In) {
		t.fate.Foreign = true
		return t.drop("this host does not forward")
	}
	return t.accept("no firewall")
}

func isLinkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
