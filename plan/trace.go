package plan

import (
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/spec"
)

// Ping stands for the protocol of echo requests, ICMP or ICMPv6 by family.
const Ping spec.Proto = 1

// Flow is a connection to be, as its first packet comes to the host.
type Flow struct {
	// In is the interface by which it comes, e.g. eth0; "" if the host itself sends it.
	In string
	// ViaGateway says that it is addressed to the bridge's own MAC, even if who is
	// asked is on that bridge.
	ViaGateway bool
	Proto      spec.Proto // or Ping
	From       netip.Addr
	To         netip.AddrPort // without a port for Ping
	// Translated says that To is what an engine has made of a port of the host's that it
	// publishes.
	Translated bool
}

// Fate is what becomes of a Flow.
type Fate struct {
	// Dropped is false if Server is asked. Whether anybody listens there is not for a
	// plan to know.
	Dropped bool
	// Why is what decided, e.g. not published.
	Why    string
	Server netip.AddrPort
	// Client is whom the server sees; the zero Addr for the address of the interface
	// by which the packet leaves the host.
	Client netip.Addr
	// Proxied says that the userland proxy takes it and asks Server by a connection of its
	// own.
	Proxied bool
	// Foreign says that no rule of ours has dropped it, and hence none counts it, but an
	// engine's, a port of the bridge, the kernel or the socket of a held port. The latter may
	// also reset a connection.
	Foreign bool
}

// Trace says what the plan's rules make of a connection's first packet, and those of the
// engines that it was made beside; packets that follow, and the answers, share its fate.
// What others have put in its way, a route that is missing or an administrator's rule,
// it cannot know.
func (p *Plan) Trace(f Flow) Fate {
	t := trace{Plan: p, Flow: f, in: p.networkOn(f.In), fate: Fate{Server: f.To, Client: f.From}}
	t.out = p.networkOf(f.To.Addr())
	switch {
	case f.In != "" && (isLoopback4(f.From) || isLoopback4(f.To.Addr())):
		t.fate.Foreign = p.Host.NoFirewall
		return t.drop("nobody else speaks for the loopback")
	case t.in != nil && t.in == t.out && !f.ViaGateway && !p.isLocal(f.To.Addr()):
		return t.withinBridge()
	}
	t.dnat = f.Translated
	switch {
	case p.isLocal(f.To.Addr()):
		if !t.publish() {
			return t.host()
		}
	case t.isShielded():
		t.fate.Foreign = true
		return t.drop("the engine shields its containers")
	}
	if p.Host.NoFirewall {
		return t.unjudged()
	}
	if f.In != "" {
		if t.forward(); t.fate.Dropped {
			return t.fate
		}
	}
	t.translateSource()
	return t.fate
}

// trace is one packet on its way.
type trace struct {
	*Plan
	Flow
	in, out *Network // the networks of ours that it comes from and goes to
	dnat    bool
	fate    Fate
}

func (t *trace) drop(why string) Fate {
	t.fate.Dropped, t.fate.Why = true, why
	return t.fate
}

func (t *trace) accept(why string) Fate {
	t.fate.Why = why
	return t.fate
}

func (t *trace) withinBridge() Fate {
	if t.in.Zone.Apart && t.in.has(t.From) && t.in.has(t.To.Addr()) {
		t.fate.Foreign = t.Host.Blind || t.Host.NoFirewall
		return t.drop("containers that are kept apart")
	}
	return t.accept("within one network")
}

// publish leads what is asked of the host to the container that publishes it.
func (t *trace) publish() bool {
	if t.To.Addr() == netip.IPv6Loopback() || isLinkLocal6(t.From) {
		return false
	}
	for _, n := range t.Networks.All() {
		for _, e := range n.Endpoints.All() {
			for _, m := range e.Mappings {
				if m.leads(t.Proto, t.To) {
					t.dnat, t.out = true, n
					t.fate.Server = netip.AddrPortFrom(m.To, m.ToPort+t.To.Port()-m.First)
					return true
				}
			}
		}
	}
	return false
}

// leads reports whether a port of the host is one of the mapping's.
func (m Mapping) leads(proto spec.Proto, to netip.AddrPort) bool {
	return m.Proto == proto && m.First <= to.Port() && to.Port() <= m.Last &&
		(m.Host == to.Addr() || m.Host == spec.Every(to.Addr().Is4()))
}

// forward judges what passes from interface to interface.
func (t *trace) forward() {
	same := t.in != nil && t.in == t.out
	switch {
	case same && !t.in.Zone.Apart:
		t.accept("within one network")
	case !same && t.guarded():
		t.drop("this host forwards for containers only")
	case t.in == nil && t.out == nil:
		t.accept("not ours")
	case t.in != nil && t.in.Zone.Internal:
		t.drop("nothing leaves an internal network")
	case t.out != nil && t.out.Zone.Internal:
		t.drop("nothing enters an internal network")
	case t.dnat:
		t.accept("published")
	case same:
		t.drop("containers that are kept apart")
	case t.out != nil:
		t.enter()
	case t.engineOf(t.To.Addr()) != nil:
		t.drop("not published by the engine")
	default:
		t.accept("containers to the outside")
	}
}

// enter judges what is sent to a container's own address.
func (t *trace) enter() {
	z := t.out.Zone
	mode := z.Mode4
	if t.To.Addr().Is6() {
		mode = z.Mode6
	}
	switch {
	case mode == spec.Unprotected:
		t.accept("gateway mode nat-unprotected")
	case mode == spec.Routed && (t.Proto == Ping || t.out.opens(t.Proto, t.To)):
		t.accept("gateway mode routed")
	case slices.Contains(z.Trusted, t.In) && t.out.opens(t.Proto, t.To):
		t.accept("from an interface that is trusted")
	default:
		t.drop("not published")
	}
}

// guarded reports whether the packet enters by an interface that did not forward before
// we came, and no container has a part in it.
func (t *trace) guarded() bool {
	guarded, to := t.Guarded4, t.fate.Server.Addr()
	if to.Is6() {
		guarded = t.Guarded6
	}
	if !slices.Contains(guarded, t.In) || t.in != nil && t.in.has(t.From) {
		return false
	}
	return t.out == nil || t.out.Zone.Shared && !t.out.has(to)
}

// translateSource says whom the server sees.
func (t *trace) translateSource() {
	if t.out != nil {
		engine := t.engineOf(t.From)
		// An engine that shields its containers would drop answers to their own addresses,
		// so it may hide them from ours as from all others.
		if isLoopback4(t.From) || t.dnat && t.out.subnetOf(t.From) != nil || engine != nil && engine.Shielded {
			t.fate.Client = t.out.addressFor(t.fate.Server.Addr())
		}
		return
	}
	if s := t.in.subnetOf(t.From); s != nil && s.Masquerade {
		t.fate.Client = s.Source
	}
}

func isLoopback4(a netip.Addr) bool { return a.Is4() && a.IsLoopback() }

// isLocal reports whether an address is the host's own. A link-local one of IPv6 is taken
// for one of the host's: a plan knows none of anybody.
func (p *Plan) isLocal(a netip.Addr) bool {
	if a.IsLoopback() || isLinkLocal6(a) || slices.Contains(p.Host.Addresses, a) {
		return true
	}
	n := p.networkOf(a)
	return n != nil && slices.ContainsFunc(n.Bridge.Addresses, func(b netip.Prefix) bool { return b.Addr() == a })
}

func (p *Plan) networkOn(bridge string) *Network {
	for _, n := range p.Networks.All() {
		if n.Bridge.Name == bridge {
			return n
		}
	}
	return nil
}

func (p *Plan) networkOf(a netip.Addr) *Network {
	for _, n := range p.Networks.All() {
		if n.subnetOf(a) != nil {
			return n
		}
	}
	return nil
}

// isShielded reports whether an engine drops the packet ahead of all translation, and
// ahead of everything of ours.
func (t *trace) isShielded() bool {
	e := t.engineOf(t.To.Addr())
	return e != nil && e.Shielded && t.In != "" && t.In != e.Name && !t.Translated
}

// engineOf is the bridge of an engine's in whose subnet an address is; nil for none.
func (p *Plan) engineOf(a netip.Addr) *HostLink {
	i := slices.IndexFunc(p.Host.Engines, func(e HostLink) bool {
		return slices.ContainsFunc(e.Subnets, func(s netip.Prefix) bool { return s.Contains(a) })
	})
	if i < 0 {
		return nil
	}
	return &p.Host.Engines[i]
}

// subnetOf is that of the network's subnets in which the address lies; nil for none.
func (n *Network) subnetOf(a netip.Addr) *Subnet {
	if n == nil {
		return nil
	}
	i := slices.IndexFunc(n.Zone.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) })
	if i < 0 {
		return nil
	}
	return &n.Zone.Subnets[i]
}

// addressFor is the bridge's address in the subnet of a container.
func (n *Network) addressFor(container netip.Addr) netip.Addr {
	for _, a := range n.Bridge.Addresses {
		if a.Contains(container) {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// has reports whether an address is one of the network's containers.
func (n *Network) has(a netip.Addr) bool {
	for _, e := range n.Endpoints.All() {
		if slices.Contains(e.Addresses, a) {
			return true
		}
	}
	return false
}

func (n *Network) opens(proto spec.Proto, to netip.AddrPort) bool {
	for _, e := range n.Endpoints.All() {
		for _, o := range e.Open {
			if o.Proto == proto && o.Addr == to.Addr() && o.First <= to.Port() && to.Port() <= o.Last {
				return true
			}
		}
	}
	return false
}
