package plan_test

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestTraceKnowsWhatTheProxyServes with a firewall and without.
func TestTraceKnowsWhatTheProxyServes(t *testing.T) {
	const (
		both, ipv4, none = "172.30.0.2", "172.30.1.2", ""
		others           = "the port is held, and served to others"
		internal         = "nothing leaves an internal network"
	)
	for name, row := range map[string]struct {
		without  bool // a firewall
		in       string
		from, to string
		dropped  string // why, or "" for the rest
		proxied  bool
		server   string
		client   string
	}{
		"::1 to IPv6":                           {to: "[::1]:8080", from: "[::1]:9", proxied: true, server: "[fd00:30::2]:80", client: "fd00:30::1"},
		"::1 to a container of IPv4":            {to: "[::1]:8181", from: "[::1]:9", proxied: true, server: "172.30.1.2:81", client: "172.30.1.1"},
		"a port of ::1 alone":                   {to: "[::1]:7000", from: "[::1]:9", proxied: true, server: "[fd00:30::2]:80", client: "fd00:30::1"},
		"a link-local client":                   {in: "eth0", to: "[2001:db8:1::1]:8080", from: "[fe80::9]:9", proxied: true, server: "[fd00:30::2]:80", client: "fd00:30::1"},
		"a link-local address of the host":      {in: "eth0", to: "[fe80::1]:8080", from: "[fe80::9]:9", proxied: true, server: "[fd00:30::2]:80", client: "fd00:30::1"},
		"IPv6 to a container of IPv4":           {in: "eth0", to: "[2001:db8:1::1]:8181", from: "[2001:db8:1::2]:9", proxied: true, server: "172.30.1.2:81", client: "172.30.1.1"},
		"IPv6 to one of IPv6 is translated":     {in: "eth0", to: "[2001:db8:1::1]:8080", from: "[2001:db8:1::2]:9", server: "[fd00:30::2]:80", client: "2001:db8:1::2"},
		"127.0.0.1 is translated":               {to: "127.0.0.1:8080", from: "127.0.0.1:9", server: "172.30.0.2:80", client: "172.30.0.1"},
		"a link-local client in internal":       {in: scene.Bridge("1"), to: "[fe80::1]:8080", from: "[fe80::9]:9", dropped: internal},
		"IPv6 in internal, to one of IPv4":      {in: scene.Bridge("1"), to: "[2001:db8:1::1]:8181", from: "[fd00:32::2]:9", dropped: internal},
		"IPv4 to a container of IPv6":           {in: "eth0", to: "192.0.2.1:8282", from: "192.0.2.2:9", server: "192.0.2.1:8282", client: "192.0.2.2"},
		"a port of another address":             {to: "[::1]:7001", from: "[::1]:9", server: "[::1]:7001", client: "::1"},
		"without a firewall, IPv4":              {without: true, in: "eth0", to: "192.0.2.1:8080", from: "192.0.2.2:9", proxied: true, server: "172.30.0.2:80", client: "172.30.0.1"},
		"without a firewall, 127.0.0.1":         {without: true, to: "127.0.0.1:8080", from: "127.0.0.1:9", proxied: true, server: "172.30.0.2:80", client: "172.30.0.1"},
		"without a firewall, IPv6":              {without: true, in: "eth0", to: "[2001:db8:1::1]:8080", from: "[2001:db8:1::2]:9", proxied: true, server: "[fd00:30::2]:80", client: "fd00:30::1"},
		"without a firewall, a range":           {without: true, in: "eth0", to: "192.0.2.1:9002", from: "192.0.2.2:9", proxied: true, server: "172.30.0.2:9012", client: "172.30.0.1"},
		"without a firewall, nobody's port":     {without: true, in: "eth0", to: "192.0.2.1:22", from: "192.0.2.2:9", server: "192.0.2.1:22", client: "192.0.2.2"},
		"without a firewall, SCTP":              {without: true, in: "eth0", to: "192.0.2.1:3868", from: "192.0.2.2:9", dropped: others},
		"without a firewall, a container's own": {without: true, in: "eth0", to: "172.30.0.2:80", from: "192.0.2.2:9", dropped: "this host does not forward"},
	} {
		t.Run(name, func(t *testing.T) {
			w := scene.NewWorld(t).
				Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
				Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
				Network("c", spec.Network{Masquerade: true}, "fd00:31::/64").
				Network("1", spec.Network{Internal: true}, "172.30.2.0/24", "fd00:32::/64").
				Endpoint("a", "e", both+"/24", "fd00:30::2/64", scene.TCP("", 8080, 80, 1), scene.TCP("::1", 7000, 80, 1),
					scene.TCP("192.0.2.1", 7001, 80, 1), scene.TCP("", 9000, 9010, 5), scene.SCTP("", 3868, 3868, 1)).
				Endpoint("b", "f", ipv4+"/24", none, scene.TCP("", 8181, 81, 1)).
				Endpoint("c", "7", none, "fd00:31::2/64", scene.TCP("", 8282, 82, 1))
			w.Host.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}
			w.Host.NoFirewall = row.without
			proto := spec.TCP
			if name == "without a firewall, SCTP" {
				proto = spec.SCTP
			}
			to := netip.MustParseAddrPort(row.to)
			fate := w.Plan().Trace(plan.Flow{In: row.in, Proto: proto, From: netip.MustParseAddrPort(row.from).Addr(), To: to})
			switch {
			case row.dropped != "":
				if !fate.Dropped || fate.Why != row.dropped {
					t.Errorf("want it dropped (%s), got %+v", row.dropped, fate)
				}
			case fate.Dropped || fate.Proxied != row.proxied || fate.Server.String() != row.server || fate.Client.String() != row.client:
				t.Errorf("want %s for %s, proxied: %t; got %+v", row.server, row.client, row.proxied, fate)
			}
		})
	}
}

// TestWithoutAFirewallNothingIsSwitchedOn and what a firewall had switched on is off again.
func TestWithoutAFirewallNothingIsSwitchedOn(t *testing.T) {
	w := scene.Everything(t)
	w.Host.NoFirewall = true
	p := w.Plan()
	if len(p.Uplinks) > 0 || p.Guard4 || p.Guard6 {
		t.Errorf("uplinks %v, guards %t %t", p.Uplinks, p.Guard4, p.Guard6)
	}
	for id, n := range p.Networks.All() {
		for _, s := range append(n.Bridge.Settings, n.Bridge.OwnSettings...) {
			if (s.Name == "forwarding" || s.Name == "force_forwarding" || s.Name == "route_localnet") && s.Value != 0 {
				t.Errorf("network %s: %+v", id.Short(), s)
			}
		}
		for id, e := range n.Endpoints.All() {
			if len(e.Mappings) > 0 || len(e.Open) > 0 || e.Veth.Isolated != n.Zone.Apart {
				t.Errorf("endpoint %s: %+v", id.Short(), e)
			}
		}
	}
}

// TestWhatIsWaivedIsToldOfNetworksThatAskForIt and only where there is no firewall.
func TestWhatIsWaivedIsToldOfNetworksThatAskForIt(t *testing.T) {
	for name, row := range map[string]struct {
		network spec.Network
		told    int
	}{
		"nothing of the kind":      {spec.Network{Masquerade: true}, 0},
		"internal and kept apart":  {spec.Network{Internal: true, Apart: true}, 2},
		"routed in both families":  {spec.Network{Mode4: spec.Routed, Mode6: spec.Routed}, 2},
		"unprotected and trusting": {spec.Network{Mode4: spec.Unprotected, Trusted: []string{"wg0"}}, 2},
		"an address of choice":     {spec.Network{Masquerade: true, Source4: netip.MustParseAddr("192.0.2.7")}, 1},
	} {
		for _, without := range []bool{false, true} {
			host := plan.Host{NoFirewall: without}
			want := row.told
			if !without {
				want = 0
			}
			if got := host.Waived(&row.network); len(got) != want {
				t.Errorf("%s: want %d, got %q", name, want, got)
			}
		}
	}
}
