package conntrack

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// gap judges entries by what they are, since nobody knows which began while rules were
// missing. Whose address a packet carries is decided once a connection, and what is
// established passes, so without an end these would outlive the mend.
//
// An entry that is right is never stale: where that depends on the way that packets take,
// the kernel's routes are asked, and what they do not know is left alone.
type gap struct {
	plan       *plan.Plan
	areas      map[netip.Prefix]area
	lengths    []int // of the areas' prefixes
	containers map[netip.Addr]bool
	local      map[netip.Addr]bool // the host's own, bridges' included
	bridges    map[string]bool
	exit       exit
}

// exit is the interface by which a packet leaves the host that comes from a bridge; with
// no bridge and no from, one that the host itself sends. It is "" if it does not leave.
type exit func(bridge string, from, to netip.Addr) string

// area is a subnet, and the network that it is of.
type area struct {
	*plan.Network
	plan.Subnet
}

func newGap(p *plan.Plan, by exit) gap {
	g := gap{
		plan: p, areas: map[netip.Prefix]area{}, containers: map[netip.Addr]bool{},
		local: map[netip.Addr]bool{}, bridges: map[string]bool{}, exit: by,
	}
	for _, a := range p.Host.Addresses {
		g.local[a] = true
	}
	for _, n := range p.Networks.All() {
		g.bridges[n.Bridge.Name] = true
		for _, a := range n.Bridge.Addresses {
			g.local[a.Addr()] = true
		}
		for _, e := range n.Endpoints.All() {
			for _, a := range e.Addresses {
				g.containers[a] = true
			}
		}
		for _, s := range n.Zone.Subnets {
			if !s.Prefix.Addr().IsLinkLocalUnicast() { // those every link has
				g.areas[s.Prefix] = area{n, s}
				g.lengths = append(g.lengths, s.Prefix.Bits())
			}
		}
	}
	slices.Sort(g.lengths)
	g.lengths = slices.Compact(g.lengths)
	return g
}

// of is the area that an address is in. Machines that stand at a bridge that is adopted
// are none of ours, nor is the host.
func (g gap) of(addr netip.Addr) (area, bool) {
	if g.local[addr] {
		return area{}, false
	}
	for _, bits := range g.lengths {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue // it is of the other family
		}
		if a, found := g.areas[prefix]; found {
			return a, !a.Zone.Shared || g.containers[addr]
		}
	}
	return area{}, false
}

// stale reports whether an entry lacks the translation of its source that it should have,
// or is of a connection that is forbidden. One that another connection had expected, FTP's
// second one for instance, shares the fate of that.
func (g gap) stale(e entry) bool {
	if e.expected || g.plan.Host.NoFirewall {
		return false
	}
	from, ours := g.of(e.client.Addr())
	to, toOurs := g.of(e.server.Addr())
	switch {
	case ours && toOurs && from.ID != to.ID:
		return e.asked == e.server && g.forbids(from, to, e) || g.hiddenOnTheWay(from, e)
	case toOurs && e.asked != e.server:
		return g.bare(ours, e)
	case ours && toOurs:
		return from.Zone.Apart && g.containers[e.client.Addr()] && g.containers[e.asked.Addr()]
	case toOurs:
		return g.forbids(from, to, e) && !g.hosts(e.client.Addr())
	case ours && e.asked == e.server:
		return g.leavesWrongly(from, e)
	}
	return false
}

// forbids reports whether nobody may ask for a container's own address from elsewhere.
// An interface that is trusted is not known from an entry.
func (g gap) forbids(from, to area, e entry) bool {
	if to.Zone.Internal || from.Network != nil && from.Zone.Internal {
		return true
	}
	mode, ping := to.Zone.Mode4, spec.Proto(unix.IPPROTO_ICMP)
	if e.family == unix.AF_INET6 {
		mode, ping = to.Zone.Mode6, unix.IPPROTO_ICMPV6
	}
	switch {
	case mode == spec.Unprotected, mode == spec.Routed && e.proto == ping:
		return false
	case mode == spec.Routed, len(to.Zone.Trusted) > 0:
		return !opens(to.Network, e)
	}
	return true
}

func opens(n *plan.Network, e entry) bool {
	for _, ep := range n.Endpoints.All() {
		for _, o := range ep.Open {
			if o.Proto == e.proto && o.Addr == e.asked.Addr() && o.First <= e.asked.Port() && e.asked.Port() <= o.Last {
				return true
			}
		}
	}
	return false
}

// hosts reports whether the host itself has an address, one that is no more in the plan's
// facts included.
func (g gap) hosts(addr netip.Addr) bool {
	return g.local[addr] || addr.IsLoopback() || addr.IsLinkLocalUnicast() && addr.Is6() || g.exit("", netip.Addr{}, addr) == ""
}

// bare reports whether a client of a published port shows an address that the container
// would not answer by way of the host: that of a peer, or of the host's loopback.
func (g gap) bare(ours bool, e entry) bool {
	if e.kept() || e.shown.Addr() != e.client.Addr() {
		return false
	}
	return ours || e.client.Addr().Is4() && e.client.Addr().IsLoopback()
}

// hiddenOnTheWay reports whether a container's address is hidden from a container, as when
// the bridge was missing and the way led to the outside.
func (g gap) hiddenOnTheWay(from area, e entry) bool {
	return !e.kept() && e.shown.Addr() != e.client.Addr() && g.outer(from, e.shown.Addr())
}

// outer reports whether an address is one behind which containers are hidden outside.
func (g gap) outer(from area, addr netip.Addr) bool {
	return addr == from.Source || slices.Contains(g.plan.Host.Addresses, addr)
}

// leavesWrongly reports whether a container's packets leave the host by an address that
// they should not have, or should not leave at all.
func (g gap) leavesWrongly(from area, e entry) bool {
	asked, shown := e.asked.Addr(), e.shown.Addr()
	bare := from.Masquerade && shown == e.client.Addr() && g.routes(from)
	other := from.Masquerade && from.Source.IsValid() && shown != from.Source && shown != e.client.Addr() && g.outer(from, shown) && !e.kept()
	engine := g.engineOf(asked)
	if !bare && !other && !from.Zone.Internal && engine == "" || asked.IsMulticast() || g.local[asked] {
		return false
	}
	link := g.exit(from.Bridge.Name, e.client.Addr(), asked)
	return link != "" && !g.bridges[link] && (bare || other || from.Zone.Internal || link == engine)
}

// routes reports whether the host is the gateway of a subnet, and not merely a switch that
// its frames pass.
func (g gap) routes(a area) bool {
	return slices.ContainsFunc(a.Bridge.Addresses, func(p netip.Prefix) bool { return a.Prefix.Contains(p.Addr()) })
}

// engineOf is the engine's bridge in whose subnet an address is; "" for none.
func (g gap) engineOf(addr netip.Addr) string {
	for _, l := range g.plan.Host.Engines {
		if slices.ContainsFunc(l.Subnets, func(s netip.Prefix) bool { return s.Contains(addr) }) {
			return l.Name
		}
	}
	return ""
}

// kept reports whether an entry works as it is and would not without: a TCP connection
// that was answered.
func (e entry) kept() bool { return e.proto == spec.TCP && e.answered }
