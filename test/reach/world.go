// Package reach is the specification of the firewall: for each kind of network, each
// client and whatever it may ask for, what becomes of the question and whom the
// server sees. Judges (a plan's own trace, a firewall with real packets) answer the
// questions; this package asks nobody itself.
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
// Neighbour has routes to all. What runs in the host's own network is the host.
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
	Name    string // e.g. nat, internal
	network spec.Network
}

// Kinds are all combinations of what bears on who may talk to whom.
func Kinds() []Kind {
	kinds := []Kind{{"isolated", spec.Network{Internal: true, Mode4: spec.Isolated, Mode6: spec.Isolated}}}
	for _, mode := range []spec.GatewayMode{spec.NAT, spec.Unprotected, spec.Routed} {
		for i := range 8 {
			internal, apart, bare := i&4 != 0, i&2 != 0, i&1 != 0
			name := mode.String()
			for _, is := range []struct {
				on   bool
				what string
			}{{internal, ", internal"}, {apart, ", apart"}, {bare, ", not masqueraded"}} {
				if is.on {
					name += is.what
				}
			}
			kinds = append(kinds, Kind{name, spec.Network{Internal: internal, Apart: apart, Masquerade: !bare, Mode4: mode, Mode6: mode}})
		}
	}
	return kinds
}

// Plan is what the host must have if the network in question is of this kind.
func (k Kind) Plan() (*plan.Plan, error) {
	var state spec.State
	for letter, n := range map[string]spec.Network{web: k.network, other: {Masquerade: true}} {
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
	if err := publish(&state); err != nil {
		return nil, err
	}
	return plan.New(state, host()), nil
}

// Ports of the host that lead to port 80 of container a.
const (
	everywhere = 8080 // on all addresses
	oneAddress = 8081 // on the uplink's
	loopback   = 8082 // on 127.0.0.1
)

// publish does what the driver does with a port map.
func publish(state *spec.State) error {
	n, err := state.Network(id(web))
	if err != nil || n.Internal {
		return err
	}
	h := machine(Host)
	portMap, err := json.Marshal([]map[string]any{
		{"Proto": spec.TCP, "Port": 80, "HostPort": everywhere},
		{"Proto": spec.TCP, "Port": 80, "HostPort": oneAddress, "HostIP": h.IPv4},
		{"Proto": spec.TCP, "Port": 80, "HostPort": oneAddress, "HostIP": h.IPv6},
		{"Proto": spec.TCP, "Port": 80, "HostPort": loopback, "HostIP": "127.0.0.1"},
	})
	if err != nil {
		return err
	}
	ports, err := spec.Options{"com.docker.network.portmap": portMap}.PortMap(n)
	if err != nil {
		return err
	}
	if err := state.Open(id(web), id(A), ports.Open); err != nil {
		return err
	}
	return state.Publish(id(web), id(A), ports.Ports, false)
}

// host is one that did not forward before we came, with an engine's bridge.
func host() *plan.Host {
	h := machine(Host)
	return &plan.Host{
		IPv6: true, ForceForwarding: true,
		Uplinks:   []plan.HostLink{{Name: "eth0"}},
		Engines:   []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd17::/64")}}},
		Addresses: []netip.Addr{h.IPv4, h.IPv6, netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd17::1")},
	}
}

func machine(name string) Machine {
	for _, m := range Machines() {
		if m.Name == name {
			return m
		}
	}
	panic(fmt.Sprintf("no machine %s", name))
}
