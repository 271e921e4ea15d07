package plan

import (
	"net/netip"
	"reflect"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// defaultMTU is the kernel's for Ethernet (ETH_DATA_LEN in linux/if_ether.h).
const defaultMTU = 1500

// New plans a whole State.
func New(state spec.State, host *Host) *Plan {
	return (&Plan{}).Next(spec.State{}, state, host)
}

// Next is New(state, host) at the price of what differs from before, the State
// that p is the Plan of.
func (p *Plan) Next(before, state spec.State, host *Host) *Plan {
	next := &Plan{Host: host, Networks: p.Networks}
	if p.Host != nil && p.Host.IPv6 != host.IPv6 || p.Host != nil && p.Host.ForceForwarding != host.ForceForwarding {
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
	b := &Bridge{Name: BridgeName(n), MAC: bridgeMAC(n.ID), MTU: mtu(n)}
	for _, p := range n.Pools {
		if p.Gateway.IsValid() {
			b.Addresses = append(b.Addresses, netip.PrefixFrom(p.Gateway, p.Prefix.Bits()))
		}
	}
	if !n.Internal {
		// route_localnet lets answers to 127.0.0.1 come back through the bridge; the
		// firewall keeps everything else from 127.0.0.0/8.
		b.Settings = append(b.Settings, Setting{4, "forwarding", 1}, Setting{4, "route_localnet", 1})
	}
	if !host.IPv6 {
		return b
	}
	if !n.HasIPv6() {
		b.Settings = append(b.Settings, Setting{6, "disable_ipv6", 1})
		return b
	}
	b.Settings = append(b.Settings, Setting{6, "disable_ipv6", 0}, Setting{6, "accept_ra", 0}, Setting{6, "autoconf", 0},
		// Without a link-local address the host asks for no neighbour on behalf of others,
		// and detecting duplicates of it takes up to two seconds from the first container on.
		Setting{6, "accept_dad", 0})
	if host.ForceForwarding && !n.Internal {
		b.Settings = append(b.Settings, Setting{6, "force_forwarding", 1})
	}
	return b
}

func newZone(n *spec.Network) *Zone {
	z := &Zone{Bridge: BridgeName(n), Internal: n.Internal, Masquerade: n.Masquerade && !n.Internal}
	for _, p := range n.Pools {
		z.Subnets = append(z.Subnets, p.Prefix.Masked())
	}
	return z
}

func newEndpoint(n *spec.Network, e *spec.Endpoint, host *Host) *Endpoint {
	v := &Veth{Name: VethName(e), Peer: PeerName(e), Bridge: BridgeName(n), MAC: e.MAC, MTU: mtu(n), Joined: e.Sandbox != ""}
	if host.IPv6 {
		// The host's end is a port of a bridge and speaks for nobody.
		v.Settings = []Setting{{6, "disable_ipv6", 1}}
	}
	next := &Endpoint{ID: e.ID, Veth: v, Mappings: mappings(e), Ports: e.Ports}
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

// mappings leads each published port to the container's address of the same family.
func mappings(e *spec.Endpoint) []Mapping {
	var all []Mapping
	for _, p := range e.Ports {
		for _, to := range e.Addresses() {
			host := p.Host
			if !host.IsValid() {
				host = unspecified(to.Addr())
			}
			if host.Is4() == to.Addr().Is4() {
				all = append(all, Mapping{p.Proto, host, p.HostPort, p.Last(), to.Addr(), p.ContainerPort})
			}
		}
	}
	return all
}

func unspecified(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// planForwarding lets packets pass between our bridges and the uplinks without
// touching ip_forward: so an engine that starts after us finds it as it was, and
// decides on its own FORWARD policy as if we were not here.
func (p *Plan) planForwarding(state spec.State) {
	needs4, needs6 := false, false
	for _, n := range state.Networks.All() {
		if !n.Internal {
			needs4, needs6 = true, needs6 || n.HasIPv6()
		}
		if needs4 && needs6 {
			break
		}
	}
	p.Guard4 = needs4 && !p.Host.Forwarding4
	p.Guard6 = needs6 && !p.Host.Forwarding6
	for _, h := range p.Host.Uplinks {
		u := Uplink{Name: h.Name}
		if p.Guard4 {
			u.Settings = append(u.Settings, Setting{4, "forwarding", 1})
		}
		if p.Guard6 && p.Host.ForceForwarding {
			u.Settings = append(u.Settings, Setting{6, "force_forwarding", 1})
		} else if p.Guard6 && h.AcceptRA {
			// A router ignores advertisements unless told otherwise, and this uplink
			// would lose its addresses and its default route.
			u.Settings = append(u.Settings, Setting{6, "accept_ra", 2})
		}
		p.Uplinks = append(p.Uplinks, u)
	}
	if p.Guard6 && !p.Host.ForceForwarding {
		p.Uplinks = append(p.Uplinks, Uplink{Name: "all", Settings: []Setting{{6, "forwarding", 1}}})
	}
}
