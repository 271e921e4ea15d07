package plan_test

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestTraceKeepsTheRulesOfTheHouse asks for what has no place in the table of who reaches
// whom; the firewalls are asked with packets that are made by hand.
func TestTraceKeepsTheRulesOfTheHouse(t *testing.T) {
	w := scene.Lan(t).
		Network("b", spec.Network{Apart: true, Masquerade: true}, "172.30.1.0/24", "fd00:31::/64").
		Endpoint("b", "f", "172.30.1.2/24", "fd00:31::2/64", scene.UDP("127.0.0.1", 7082, 82, 1), scene.TCP("", 8081, 80, 1)).
		Endpoint("b", "6", "172.30.1.3/24", "fd00:31::3/64")
	w.Host.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("169.254.7.1")}
	p := w.Plan()
	const (
		loopback  = "nobody else speaks for the loopback"
		guarded   = "this host forwards for containers only"
		apart     = "containers that are kept apart"
		published = "not published"
	)
	for name, row := range map[string]struct {
		in       string
		from, to string
		dropped  string // why, or "" if it passes
	}{
		"to a service on 127.0.0.1":                          {"eth0", "192.0.2.3:9", "127.0.0.1:53", loopback},
		"to a port that is published on 127.0.0.1":           {"eth0", "192.0.2.3:9", "127.0.0.1:7082", loopback},
		"the same from a container":                          {scene.Bridge("b"), "172.30.1.3:9", "127.0.0.1:7082", loopback},
		"as if from 127.0.0.1":                               {"eth0", "127.0.0.1:9", "192.0.2.1:8081", loopback},
		"to what is published on 127.0.0.1, by its own port": {"eth0", "192.0.2.3:9", "172.30.1.2:82", published},
		"as if from a peer":                                  {"eth0", "172.30.1.3:9", "172.30.1.2:82", published},
		"to a peer by way of the gateway":                    {scene.Bridge("b"), "172.30.1.3:9", "172.30.1.2:82", apart},
		"the same by IPv6":                                   {scene.Bridge("b"), "[fd00:31::3]:9", "[fd00:31::2]:82", apart},
		"as if from elsewhere":                               {scene.Bridge("b"), "192.0.2.3:9", "172.30.1.2:82", apart},
		"from a LAN to the world":                            {"lan0", "172.30.0.9:9", "198.51.100.1:53", guarded},
		"the same by IPv6, from a LAN":                       {"lan0", "[fd00:30::9]:9", "[2001:db8:ffff::1]:53", guarded},
		"from the world to a LAN":                            {"eth0", "198.51.100.1:9", "172.30.0.9:53", guarded},
		"from a LAN to virtual machines":                     {"lan0", "172.30.0.9:9", "192.168.122.2:53", guarded},
		"from a container beside a LAN to the world":         {"lan0", "172.30.0.2:9", "198.51.100.1:53", ""},
		"from the world to a container beside a LAN":         {"eth0", "198.51.100.1:9", "172.30.0.2:53", ""},
	} {
		fate := p.Trace(plan.Flow{
			In: row.in, ViaGateway: true, Proto: spec.UDP,
			From: netip.MustParseAddrPort(row.from).Addr(), To: netip.MustParseAddrPort(row.to),
		})
		if fate.Dropped != (row.dropped != "") || fate.Dropped && fate.Why != row.dropped {
			t.Errorf("%s: want it dropped by %q, got %+v", name, row.dropped, fate)
		}
	}
	client := netip.MustParseAddr("169.254.7.3")
	fate := p.Trace(plan.Flow{In: "eth0", Proto: spec.TCP, From: client, To: netip.MustParseAddrPort("169.254.7.1:8081")})
	if fate.Dropped || fate.Client != client || fate.Server != netip.MustParseAddrPort("172.30.1.2:80") {
		t.Errorf("a client with a link-local address: %+v", fate)
	}
}
