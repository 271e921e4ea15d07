package plan

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// defaultMTU is the kernel's for Ethernet (ETH_DATA_LEN in linux/if_ether.h).
const defaultMTU = 1500

const acceptRA = "accept_ra"

// New plans a whole State.
func New(state spec.State, host *Host) *Plan {
	return (&Plan{}).Next(spec.State{}, state, host)
}

// Next is New(state, host) at the price of what differs from before, the State
// that p is the Plan of.
func (p *Plan) Next(before, state spec.State, host *Host) *Plan {
	next := &Plan{Host: host, Networks: p.Networks}
	if p.Host != nil && (p.Host.planning() != host.planning()) {
		before, p, next.Networks = spec.State{}, &Plan{}, tree.Map[spec.ID, *Network]{}
	}
	for c := range tree.Diff(before.Networks, state.Networks) {
		if c.New == nil {
			next.Networks = next.Networks.Without(c.Key)
			continue
		}
		old, _ := p.Networks.Get(c.Key)
		next.Networks = next.Networks.With(c.Key, newNetwork(old, c.Old, c.New, host))
	}
	next.planForwarding(state)
	return next
}

// planning are the facts that the plan of each network depends on.
func (h *Host) planning() [5]bool {
	return [...]bool{
		h.IPv6, h.ForceForwarding, h.Blind, h.NoFirewall,
		h.NoFirewall && h.Forwarding4,
	}
}

// newNetwork plans one network, sharing with old, its former plan, what stays.
func newNetwork(old *Network, before, n *spec.Network, host *Host) *Network {
	next := &Network{ID: n.ID, Bridge: newBridge(n, host), Zone: newZone(n)}
	var had tree.Map[spec.ID, *spec.Endpoint]
	if old != nil && before != nil {
		next.Endpoints, had = old.Endpoints, before.Endpoints
		if reflect.DeepEqual(old.Bridge, next.Bridge) {
			next.Bridge = old.Bridge
		}
		if reflect.DeepEqual(old.Zone, next.Zone) {
			next.Zone = old.Zone
		}
	}
	for c := range tree.Diff(had, n.Endpoints) {
		if c.New == nil {
			next.Endpoints = next.Endpoints.Without(c.Key)
			continue
		}
		next.Endpoints = next.Endpoints.With(c.Key, newEndpoint(n, c.New, host))
	}
	return next
}

func newBridge(n *spec.Network, host *Host) *Bridge {
	b := &Bridge{Name: BridgeName(n), Named: n.Bridge != "", MAC: bridgeMAC(n.ID), MTU: mtu(n)}
	for _, p := range n.Pools {
		if n.Addressed(p) {
			b.Addresses = append(b.Addresses, netip.PrefixFrom(p.Gateway, p.Prefix.Bits()))
		}
	}
	switch {
	case host.NoFirewall:
		b.OwnSettings = host.unswitched()
	case !closed(n) && n.HasIPv4():
		// route_localnet lets answers to 127.0.0.1 come back through the bridge; the
		// firewall keeps everything else from 127.0.0.0/8.
		b.Settings = append(b.Settings, Setting{4, "forwarding", 1}, Setting{4, "route_localnet", 1})
	}
	switch {
	case !host.IPv6:
		return b
	case !n.HasIPv6() || n.Mode6 == spec.Isolated:
		b.OwnSettings = append(b.OwnSettings, Setting{6, "disable_ipv6", 1})
		return b
	}
	b.OwnSettings = append(b.OwnSettings, []Setting{
		{6, acceptRA, 0},
		{6, "autoconf", 0},
		// Without a link-local address the host asks for no neighbour on behalf of others,
		// and detecting duplicates of it takes up to two seconds from the first container on.
		{6, "accept_dad", 0},
	}...)
	b.Settings = append(b.Settings, Setting{6, "disable_ipv6", 0})
	if host.ForceForwarding && !closed(n) && !host.NoFirewall {
		b.Settings = append(b.Settings, Setting{6, "force_forwarding", 1})
	}
	return b
}

// unswitched are the settings of a bridge that nothing is switched on for: as of any other
// interface. There may have been a firewall before, and the bridge since then.
func (h *Host) unswitched() []Setting {
	forwarding := Setting{4, "forwarding", 0}
	if h.Forwarding4 {
		forwarding.Value = 1
	}
	all := []Setting{forwarding, {4, "route_localnet", 0}}
	if h.IPv6 && h.ForceForwarding {
		all = append(all, Setting{6, "force_forwarding", 0})
	}
	return all
}

// closed reports whether nothing passes between the network and other interfaces. One
// without subnets has nothing that could be routed.
func closed(n *spec.Network) bool { return n.Internal || len(n.Pools) == 0 }

func newZone(n *spec.Network) *Zone {
	z := &Zone{Bridge: BridgeName(n), Internal: closed(n), Apart: n.Apart, Shared: n.Bridge != "", Trusted: n.Trusted}
	if !z.Internal {
		z.Mode4, z.Mode6 = n.Mode4, n.Mode6
	}
	for _, p := range n.Pools {
		s := Subnet{Prefix: p.Prefix.Masked()}
		if n.Masquerade && !z.Internal && n.Mode(s.Prefix.Addr()) != spec.Routed && !p.LinkLocal() {
			s.Masquerade, s.Source = true, n.Source6
			if s.Prefix.Addr().Is4() {
				s.Source = n.Source4
			}
		}
		z.Subnets = append(z.Subnets, s)
	}
	return z
}

func newEndpoint(n *spec.Network, e *spec.Endpoint, host *Host) *Endpoint {
	v := &Veth{Name: VethName(e), Peer: PeerName(e), Bridge: BridgeName(n), MAC: e.MAC, MTU: mtu(n), Joined: e.Sandbox != "", Isolated: n.Apart && (host.Blind || host.NoFirewall)}
	if n.Bridge != "" {
		v.MTU = n.MTU // the bridge may be there already, and with another default
	}
	if host.IPv6 {
		// The host's end is a port of a bridge and speaks for nobody.
		v.Settings = []Setting{{6, "disable_ipv6", 1}}
	}
	next := &Endpoint{ID: e.ID, Veth: v, Mappings: mappings(n, e), Ports: held(n, e, host), Open: openings(n, e)}
	if host.NoFirewall {
		next.Mappings, next.Open = nil, nil
	}
	for _, a := range e.Addresses() {
		next.Addresses = append(next.Addresses, a.Addr())
	}
	return next
}

func mtu(n *spec.Network) int {
	if n.MTU == 0 {
		return defaultMTU
	}
	return n.MTU
}

// mappings leads each published port to the container's address of the same family. The
// kernel routes nothing between ::1 and another interface.
func mappings(n *spec.Network, e *spec.Endpoint) []Mapping {
	var all []Mapping
	for _, p := range e.Ports {
		for _, to := range routable(n, e) {
			host := p.Host
			if !host.IsValid() {
				host = spec.Every(to.Is4())
			}
			if host.Is4() == to.Is4() && host != netip.IPv6Loopback() {
				all = append(all, Mapping{p.Proto, host, p.HostPort, p.Last(), to, p.ContainerPort})
			}
		}
	}
	return all
}

// held are the published ports, with what the proxy serves of each.
func held(n *spec.Network, e *spec.Endpoint, host *Host) []Held {
	var to4, to6 netip.Addr
	for _, a := range routable(n, e) {
		if a.Is4() {
			to4 = a
		} else {
			to6 = a
		}
	}
	var all []Held
	for _, p := range e.Ports {
		h := Held{Port: p}
		if p.Proto != spec.SCTP {
			if !p.Host.Is6() && host.NoFirewall && to4.IsValid() {
				h.Proxy4 = Proxy{To: to4, All: true}
			}
			if !p.Host.Is4() && host.IPv6 {
				h.Proxy6 = proxy6(to4, to6, host)
			}
		}
		all = append(all, h)
	}
	return all
}

func proxy6(to4, to6 netip.Addr, host *Host) Proxy {
	switch {
	case to6.IsValid():
		return Proxy{To: to6, All: host.NoFirewall}
	case to4.IsValid():
		return Proxy{To: to4, All: true}
	}
	return Proxy{}
}

// openings are what the network's mode opens and, if it trusts anybody, what is
// published besides.
func openings(n *spec.Network, e *spec.Endpoint) []Opening {
	ports := e.Open
	if len(n.Trusted) > 0 {
		ports = append(slices.Clone(ports), e.Ports...)
	}
	var all []Opening
	for _, p := range ports {
		for _, to := range routable(n, e) {
			if !p.Host.IsValid() || p.Host.Is4() == to.Is4() {
				all = append(all, Opening{p.Proto, to, p.ContainerPort, p.ContainerPort + p.Count - 1})
			}
		}
	}
	return disjoint(all)
}

// disjoint joins openings that meet: several ports of the host may lead to one of the
// container, and the kernel refuses elements that overlap.
func disjoint(openings []Opening) []Opening {
	slices.SortFunc(openings, func(a, b Opening) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
	})
	var all []Opening
	for _, o := range openings {
		if n := len(all); n > 0 && all[n-1].Addr == o.Addr && all[n-1].Proto == o.Proto && int(o.First) <= int(all[n-1].Last)+1 {
			all[n-1].Last = max(all[n-1].Last, o.Last)
			continue
		}
		all = append(all, o)
	}
	return all
}

// routable are the endpoint's addresses that packets from beyond the bridge can reach.
func routable(n *spec.Network, e *spec.Endpoint) []netip.Addr {
	var all []netip.Addr
	for _, a := range e.Addresses() {
		if pool, ok := n.Pool(a.Addr()); ok && !pool.LinkLocal() {
			all = append(all, a.Addr())
		}
	}
	return all
}
