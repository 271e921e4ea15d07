// Package reach is the specification of the firewall: for each kind of network, beside
// each engine, each client and whatever it may ask for, what becomes of the question and
// whom the server sees. Judges (a plan's own trace, a firewall with real packets) answer
// the questions; this package asks nobody itself.
//
// Every question is of one family, and the rules of one family do not bear on the other:
// so a network of IPv4 alone, or of IPv6 alone, has no kind of its own.
package reach

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// The machines. Containers a and b are on the network in question, o is on another
// one of ours, d on an engine's bridge. Outside has no route to any container,
// Neighbour has routes to all. A container in the host's own network (--network host)
// is the host: neither firewall nor container can tell them apart.
const (
	A         = "a"
	B         = "b"
	O         = "o"
	D         = "d"
	Host      = "host"
	Outside   = "outside"
	Neighbour = "neighbour"
)

// Machine is where one of them is.
type Machine struct {
	Name   string
	Bridge string     // of the host's, for containers
	IPv4   netip.Addr // e.g. 172.30.1.2
	IPv6   netip.Addr
}

// Machines are those that ask and are asked, in the order of the table's columns.
func Machines() []Machine {
	m := func(name, bridge, ipv4, ipv6 string) Machine {
		return Machine{name, bridge, netip.MustParseAddr(ipv4), netip.MustParseAddr(ipv6)}
	}
	return []Machine{
		m(A, bridgeOf(web), "172.30.1.2", "fd00:30:1::2"),
		m(B, bridgeOf(web), "172.30.1.3", "fd00:30:1::3"),
		m(O, bridgeOf(other), "172.30.2.2", "fd00:30:2::2"),
		m(D, "docker0", "172.17.0.2", "fd17::2"),
		m(Host, "", "192.0.2.1", "2001:db8:1::1"),
		m(Outside, "", "192.0.2.2", "2001:db8:1::2"),
		m(Neighbour, "", "192.0.2.3", "2001:db8:1::3"),
	}
}

// Networks of ours, by the letter that their IDs are made of.
const web, other = "1", "2"

func id(letter string) spec.ID { return spec.ID(strings.Repeat(letter, 64)) }

func bridgeOf(letter string) string { return "dbr" + strings.Repeat(letter, 12) }

// Kind is a kind of network.
type Kind struct {
	Name    string       // e.g. nat, internal
	Network spec.Network // of containers a and b, without ID and pools
	Other   spec.Network // of container o
}

// Kinds are all combinations of what bears on who may talk to whom, and the gateway
// modes in pairs.
func Kinds() []Kind {
	plain := func(mode spec.GatewayMode) spec.Network {
		return spec.Network{Masquerade: true, Mode4: mode, Mode6: mode}
	}
	nat := plain(spec.NAT)
	kinds := []Kind{{"isolated", spec.Network{Internal: true, Mode4: spec.Isolated, Mode6: spec.Isolated}, nat}}
	for _, mode := range []spec.GatewayMode{spec.NAT, spec.Unprotected, spec.Routed} {
		for i := range 8 {
			n, name := plain(mode), mode.String()
			n.Internal, n.Apart, n.Masquerade = i&4 != 0, i&2 != 0, i&1 == 0
			for _, is := range []struct {
				on   bool
				what string
			}{{n.Internal, ", internal"}, {n.Apart, ", apart"}, {!n.Masquerade, ", not masqueraded"}} {
				if is.on {
					name += is.what
				}
			}
			kinds = append(kinds, Kind{name, n, nat})
		}
	}
	for _, pair := range [][2]spec.GatewayMode{{spec.NAT, spec.Routed}, {spec.NAT, spec.Unprotected}, {spec.Routed, spec.Routed}} {
		kinds = append(kinds, Kind{fmt.Sprintf("%s and %s", pair[0], pair[1]), plain(pair[0]), plain(pair[1])})
	}
	return kinds
}

// Plan is what a host must have if the network in question is of this kind.
func (k Kind) Plan(host *plan.Host) (*plan.Plan, error) {
	var state spec.State
	for letter, n := range map[string]spec.Network{web: k.Network, other: k.Other} {
		n.ID = id(letter)
		for _, prefix := range []string{"172.30." + letter + ".0/24", "fd00:30:" + letter + "::/64"} {
			p := netip.MustParsePrefix(prefix)
			n.Pools = append(n.Pools, spec.Pool{Prefix: p, Gateway: p.Addr().Next()})
		}
		if err := state.AddNetwork(&n); err != nil {
			return nil, err
		}
	}
	for letter, names := range map[string]string{web: A + B, other: O} {
		for _, name := range strings.Split(names, "") {
			m := machine(name)
			ep := &spec.Endpoint{ID: id(name), IPv4: netip.PrefixFrom(m.IPv4, 24), IPv6: netip.PrefixFrom(m.IPv6, 64)}
			if err := state.AddEndpoint(id(letter), ep); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range []string{A, O} {
		if err := publish(&state, name); err != nil {
			return nil, err
		}
	}
	return plan.New(state, host), nil
}

// Ports of the host that lead to port 80 of a container.
const (
	Everywhere = 8080 // to a, from all addresses
	OneAddress = 8081 // to a, from the uplink's
	Loopback   = 8082 // to a, from 127.0.0.1
	ByOther    = 9090 // to o, from all addresses
	ByEngine   = 7070 // to d, from all addresses, by the engine
)

// publish does what the driver does with a port map.
func publish(state *spec.State, name string) error {
	h := machine(Host)
	network, portMap := id(other), []map[string]any{{"Proto": spec.TCP, "Port": Published, "HostPort": ByOther}}
	if name == A {
		network, portMap = id(web), []map[string]any{
			{"Proto": spec.TCP, "Port": Published, "HostPort": Everywhere},
			{"Proto": spec.TCP, "Port": Published, "HostPort": OneAddress, "HostIP": h.IPv4},
			{"Proto": spec.TCP, "Port": Published, "HostPort": OneAddress, "HostIP": h.IPv6},
			{"Proto": spec.TCP, "Port": Published, "HostPort": Loopback, "HostIP": "127.0.0.1"},
		}
	}
	n, err := state.Network(network)
	if err != nil || n.Internal {
		return err
	}
	text, err := json.Marshal(portMap)
	if err != nil {
		return err
	}
	ports, err := spec.Options{"com.docker.network.portmap": text}.PortMap(n)
	if err != nil {
		return err
	}
	if err := state.Open(network, id(name), ports.Open); err != nil {
		return err
	}
	return state.Publish(network, id(name), ports.Ports, false)
}

func machine(name string) Machine {
	for _, m := range Machines() {
		if m.Name == name {
			return m
		}
	}
	panic(fmt.Sprintf("no machine %s", name))
}
