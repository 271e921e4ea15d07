package scene

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// drawModes draws whatever settings of a network the firewall knows.
func drawModes(rt *rapid.T, n *spec.Network) {
	modes := rapid.SampledFrom([]spec.GatewayMode{spec.NAT, spec.Unprotected, spec.Routed})
	n.Mode4, n.Mode6, n.Apart = modes.Draw(rt, "mode4"), modes.Draw(rt, "mode6"), rapid.Bool().Draw(rt, "apart")
	if rapid.Bool().Draw(rt, "source") {
		n.Source4, n.Source6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:1::7")
	}
	if rapid.Bool().Draw(rt, "shared") {
		n.Bridge = "lan" + string(n.ID[:1])
	}
	n.Trusted = []string{"eth1", "wg0"}[:rapid.IntRange(0, 2).Draw(rt, "trusted")]
}

// RandomPlan plans networks 0 to 3 of adjacent subnets with endpoints 0 to 2, whose
// ports are few enough to move from one to another.
func RandomPlan(rt *rapid.T) *plan.Plan {
	var state spec.State
	for i := range 4 {
		if !rapid.Bool().Draw(rt, "network") {
			continue
		}
		n := &spec.Network{
			ID: ID(fmt.Sprint(i)), Internal: rapid.Bool().Draw(rt, "internal"), Masquerade: rapid.Bool().Draw(rt, "masquerade"),
			Apart: rapid.Bool().Draw(rt, "apart"), Bridge: rapid.SampledFrom([]string{"", fmt.Sprintf("br%d", i)}).Draw(rt, "bridge"),
			Pools: []spec.Pool{
				{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(i), 0}), 24)},
				{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:30:0:%d::/64", i))},
			},
		}
		drawModes(rt, n)
		if err := state.AddNetwork(n); err != nil {
			rt.Fatal(err)
		}
		for j := range 3 {
			addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(i), byte(j + 2)}), 24)
			addr6 := netip.MustParsePrefix(fmt.Sprintf("fd00:30:0:%d::%d/64", i, j+2))
			_ = state.AddEndpoint(n.ID, &spec.Endpoint{ID: ID(fmt.Sprintf("%c%d", 'a'+i, j)), IPv4: addr, IPv6: addr6, Open: drawOpen(rt)})
			for range rapid.IntRange(0, 3).Draw(rt, "ports") {
				// A port that is taken is refused, which is as good.
				_ = state.Publish(n.ID, ID(fmt.Sprintf("%c%d", 'a'+i, j)), []spec.Port{randomPort(rt)}, false)
			}
		}
	}
	host := &plan.Host{Forwarding4: rapid.Bool().Draw(rt, "forwarding"), Unseen4: rapid.Bool().Draw(rt, "unseen")}
	for i := range rapid.IntRange(0, 2).Draw(rt, "engines") {
		bits := rapid.IntRange(15, 17).Draw(rt, "bits")
		host.Engines = append(host.Engines, plan.HostLink{
			Name:    fmt.Sprintf("docker%d", i),
			Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i), 0, 1}), bits)},
		})
	}
	host.Uplinks = []plan.HostLink{{Name: "eth0"}, {Name: "lan0", Bridge: true}}[:rapid.IntRange(0, 2).Draw(rt, "uplinks")]
	return plan.New(state, host)
}

// drawOpen draws ports of a container's own, which may meet and overlap.
func drawOpen(rt *rapid.T) []spec.Port {
	var open []spec.Port
	for range rapid.IntRange(0, 2).Draw(rt, "open") {
		first := uint16(rapid.IntRange(80, 83).Draw(rt, "port"))
		open = append(open, TCP("0.0.0.0", first, first, uint16(rapid.IntRange(1, 3).Draw(rt, "count"))))
	}
	return open
}

func randomPort(rt *rapid.T) spec.Port {
	first := uint16(rapid.IntRange(1000, 1010).Draw(rt, "port"))
	host := rapid.SampledFrom([]string{"", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1"}).Draw(rt, "host")
	count := uint16(rapid.IntRange(1, 4).Draw(rt, "count"))
	to := first + uint16(rapid.IntRange(0, 1).Draw(rt, "shift"))
	proto := rapid.SampledFrom([]spec.Proto{spec.TCP, spec.UDP, spec.SCTP}).Draw(rt, "protocol")
	return port(proto, host, first, to, count)
}
