// Package scene sets what tests of a firewall play on: States built in one
// expression, the host that a plan describes with containers on its bridges, and the
// machines of the reachability table. It judges nothing and knows no firewall but by
// its Apply.
package scene

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// World is a State that can be built in one expression, and the Host that it is
// planned for.
type World struct {
	t     testing.TB
	State spec.State
	Host  plan.Host
}

// NewWorld has nothing in it, on a host that does not forward.
func NewWorld(t testing.TB) *World {
	t.Helper()
	return &World{t: t, Host: plan.Host{IPv6: true, ForceForwarding: true, Uplinks: []plan.HostLink{{Name: "eth0"}}}}
}

// Network adds a network, whose gateways are the first addresses.
func (w *World) Network(id string, n spec.Network, prefixes ...string) *World {
	w.t.Helper()
	n.ID = ID(id)
	for _, p := range prefixes {
		prefix := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, spec.Pool{Prefix: prefix, Gateway: prefix.Addr().Next()})
	}
	if err := w.State.AddNetwork(&n); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// Endpoint adds an endpoint and what it publishes; either address may be "".
func (w *World) Endpoint(network, id string, addr4, addr6 string, ports ...spec.Port) *World {
	w.t.Helper()
	ep := spec.Endpoint{ID: ID(id), Ports: ports}
	if addr4 != "" {
		ep.IPv4 = netip.MustParsePrefix(addr4)
	}
	if addr6 != "" {
		ep.IPv6 = netip.MustParsePrefix(addr6)
	}
	if err := w.State.AddEndpoint(ID(network), &ep); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// Open is Endpoint, with ports that the network's mode does not translate.
func (w *World) Open(network, id string, addr4, addr6 string, ports ...spec.Port) *World {
	w.t.Helper()
	ep := spec.Endpoint{ID: ID(id), IPv4: netip.MustParsePrefix(addr4), IPv6: netip.MustParsePrefix(addr6), Open: ports}
	if err := w.State.AddEndpoint(ID(network), &ep); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// Plan is the World's.
func (w *World) Plan() *plan.Plan {
	host := w.Host
	return plan.New(w.State, &host)
}

// ID makes an ID of a short name.
func ID(name string) spec.ID { return spec.ID(strings.Repeat(name, 24)[:24]) }

// Bridge is the name of the bridge of a network whose short name is one letter.
func Bridge(letter string) string { return "dbr" + strings.Repeat(letter, 12) }

// Veth is the host's end of the pair of an endpoint whose short name is one letter.
func Veth(letter string) string { return "dbv" + strings.Repeat(letter, 12) }

// TCP is a published port, or count of them, of one address of the host or, if that
// is "", of all.
func TCP(host string, hostPort, containerPort, count uint16) spec.Port {
	return port(spec.TCP, host, hostPort, containerPort, count)
}

// UDP is TCP for UDP.
func UDP(host string, hostPort, containerPort, count uint16) spec.Port {
	return port(spec.UDP, host, hostPort, containerPort, count)
}

// SCTP is TCP for SCTP.
func SCTP(host string, hostPort, containerPort, count uint16) spec.Port {
	return port(spec.SCTP, host, hostPort, containerPort, count)
}

func port(proto spec.Proto, host string, hostPort, containerPort, count uint16) spec.Port {
	p := spec.Port{Proto: proto, HostPort: hostPort, ContainerPort: containerPort, Count: count}
	if host != "" {
		p.Host = netip.MustParseAddr(host)
	}
	return p
}

// Lan is a World whose one network is on a bridge that was there before, with a LAN
// behind it, on a host that does not forward. Another bridge is none of our business.
func Lan(t testing.TB) *World {
	t.Helper()
	w := NewWorld(t)
	w.Host.Uplinks = append(w.Host.Uplinks, plan.HostLink{Name: "lan0", Bridge: true}, plan.HostLink{Name: "virbr0", Bridge: true})
	return w.
		Network("a", spec.Network{Masquerade: true, Bridge: "lan0", Mode4: spec.Unprotected, Mode6: spec.Unprotected}, "172.30.0.0/24", "fd00:30::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", TCP("", 8080, 80, 1))
}

// Everything is a World that has something of all that a firewall can be told.
func Everything(t testing.TB) *World {
	t.Helper()
	w := NewWorld(t)
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{
		netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd17::/64"),
	}}}
	w.Host.Uplinks = append(w.Host.Uplinks, plan.HostLink{Name: "wg0"})
	return w.
		Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
		Network("c", spec.Network{Internal: true}, "172.30.2.0/24").
		Network("d", spec.Network{Mode4: spec.Unprotected, Mode6: spec.Unprotected}, "172.30.3.0/24", "fd00:33::/64").
		Network("7", spec.Network{
			Masquerade: true, Apart: true, Trusted: []string{"wg0"},
			Source4: netip.MustParseAddr("192.0.2.7"), Source6: netip.MustParseAddr("2001:db8:1::7"),
		}, "172.30.4.0/24", "fd00:34::/64").
		Network("8", spec.Network{Masquerade: true, Mode4: spec.Routed, Mode6: spec.Routed}, "172.30.5.0/24", "fd00:35::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			TCP("", 8080, 80, 1), UDP("", 5000, 5000, 11), TCP("192.0.2.1", 443, 443, 1), TCP("2001:db8:1::1", 443, 8443, 1),
			UDP("192.0.2.1", 6000, 6000, 2), TCP("2001:db8:1::1", 6000, 6000, 2),
			TCP("", 7000, 9000, 3), SCTP("", 3868, 3868, 1), SCTP("192.0.2.1", 2905, 2905, 2)).
		Endpoint("b", "f", "172.30.1.2/24", "", TCP("127.0.0.1", 9000, 90, 1)).
		Endpoint("7", "6", "172.30.4.2/24", "fd00:34::2/64", TCP("", 8081, 80, 1)).
		Open("8", "5", "172.30.5.2/24", "fd00:35::2/64", TCP("", 0, 80, 1), UDP("", 0, 5000, 11))
}
