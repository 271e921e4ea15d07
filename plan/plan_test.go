package plan_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
)

// freshHost forwards nothing yet and has Docker on it.
func freshHost() *plan.Host {
	return &plan.Host{
		IPv6: true, ForceForwarding: true,
		Uplinks: []plan.HostLink{{Name: "eth0", AcceptRA: true}},
		Engines: []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}},
		Drops:   []plan.Chain{{Family: 4, Kind: "nft"}, {Family: 6, Kind: "nft"}},
	}
}

func id(prefix string) spec.ID {
	return spec.ID((prefix + "0000000000000000000000000000000000000000000000000000000000000000")[:64])
}

func network(name string, pools ...string) *spec.Network {
	n := &spec.Network{ID: id(name), Masquerade: true, InterfacePrefix: "eth"}
	for _, p := range pools {
		prefix := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, spec.Pool{Prefix: prefix, Gateway: prefix.Addr().Next()})
	}
	return n
}

func endpoint(name, v4, v6 string, ports ...spec.Port) *spec.Endpoint {
	e := &spec.Endpoint{ID: id(name), MAC: spec.DeriveMAC(name), Ports: ports}
	if v4 != "" {
		e.IPv4 = netip.MustParsePrefix(v4)
	}
	if v6 != "" {
		e.IPv6 = netip.MustParsePrefix(v6)
	}
	return e
}

func TestPlanIsTheGoldenText(t *testing.T) {
	web := network("web1", "172.30.0.0/24")
	dual := network("da1", "172.31.0.0/24", "fd00:31::/64")
	dual.MTU, dual.Masquerade = 1420, false
	internal := network("db1", "172.29.0.0/24")
	internal.Internal = true
	everywhere := spec.Port{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}
	loopback := spec.Port{Proto: spec.UDP, Host: netip.MustParseAddr("127.0.0.1"), HostPort: 53, ContainerPort: 53, Count: 1}
	span := spec.Port{Proto: spec.TCP, Host: netip.IPv6Unspecified(), HostPort: 9000, ContainerPort: 9000, Count: 10}
	withFallback := freshHost()
	withFallback.ForceForwarding = false
	routedTo := freshHost()
	routedTo.ForceForwarding = false
	routedTo.Uplinks = append(routedTo.Uplinks, plan.HostLink{Name: "br-lan", AcceptRA: true})
	lan := network("1a1", "172.28.0.0/24", "fd00:28::/64")
	lan.Bridge = "br-lan"
	forwarding := freshHost()
	forwarding.Forwarding4, forwarding.Forwarding6 = true, true

	blind := freshHost()
	blind.Blind = true
	apart := network("ab1", "172.27.0.0/24")
	apart.Apart = true

	without := freshHost()
	without.NoFirewall = true

	for name, row := range map[string]struct {
		host      *plan.Host
		networks  []*spec.Network
		endpoints map[spec.ID][]*spec.Endpoint
	}{
		"nothing": {host: freshHost()},
		"published": {
			host: freshHost(), networks: []*spec.Network{web},
			endpoints: map[spec.ID][]*spec.Endpoint{web.ID: {endpoint("e1", "172.30.0.2/24", "", everywhere, loopback)}},
		},
		"kept-apart-by-ports-where-the-firewall-is-blind": {
			host: blind, networks: []*spec.Network{web, apart},
			endpoints: map[spec.ID][]*spec.Endpoint{web.ID: {endpoint("e1", "172.30.0.2/24", "")}, apart.ID: {endpoint("e2", "172.27.0.2/24", "")}},
		},
		"dual-stack": {
			host: freshHost(), networks: []*spec.Network{dual},
			endpoints: map[spec.ID][]*spec.Endpoint{dual.ID: {endpoint("e2", "172.31.0.2/24", "fd00:31::2/64", everywhere, span)}},
		},
		"internal-alone-needs-no-forwarding":  {host: freshHost(), networks: []*spec.Network{internal}},
		"dual-stack-without-force-forwarding": {host: withFallback, networks: []*spec.Network{dual}},
		"a-bridge-that-a-router-speaks-to": {
			host: routedTo, networks: []*spec.Network{lan},
			endpoints: map[spec.ID][]*spec.Endpoint{lan.ID: {endpoint("e3", "172.28.0.2/24", "fd00:28::2/64")}},
		},
		"without-a-firewall": {
			host: without, networks: []*spec.Network{dual, apart},
			endpoints: map[spec.ID][]*spec.Endpoint{
				dual.ID:  {endpoint("e2", "172.31.0.2/24", "fd00:31::2/64", everywhere, span)},
				apart.ID: {endpoint("e4", "172.27.0.2/24", "", loopback)},
			},
		},
		"a-host-that-forwards-already-is-left-so": {host: forwarding, networks: []*spec.Network{dual}},
	} {
		t.Run(name, func(t *testing.T) {
			var s spec.State
			for _, n := range row.networks {
				must(t, s.AddNetwork(n))
				for _, e := range row.endpoints[n.ID] {
					must(t, s.AddEndpoint(n.ID, e))
				}
			}
			golden.Equal(t, filepath.Join("testdata", name+".txt"), plan.New(s, row.host).String())
		})
	}
}

// TestWhatOthersMayBeOnIsGuarded whether the host had an address there or not. An
// internal network needs no guard.
func TestWhatOthersMayBeOnIsGuarded(t *testing.T) {
	host := freshHost()
	host.Uplinks = append(host.Uplinks, plan.HostLink{Name: "br-lan", Bridge: true}, plan.HostLink{Name: "virbr0", Bridge: true})
	lan, named, internal := network("1a1", "172.28.0.0/24"), network("1a2", "172.29.0.0/24"), network("1a3", "172.30.0.0/24")
	lan.Bridge, named.Bridge, internal.Bridge, internal.Internal = "br-lan", "br-vm", "br-db", true
	var s spec.State
	for _, n := range []*spec.Network{lan, named, internal, network("1a4", "172.31.0.0/24")} {
		must(t, s.AddNetwork(n))
	}
	p := plan.New(s, host)
	if diff := cmp.Diff([]string{"br-lan", "br-vm", "eth0", "virbr0"}, p.Guarded4); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p.Guarded6 != nil {
		t.Errorf("no network has IPv6: %v", p.Guarded6)
	}
	if diff := cmp.Diff([]string{"virbr0"}, p.Bridges); diff != "" {
		t.Errorf("a network judges what passes within its bridge (-want +got):\n%s", diff)
	}
}

// TestWhatForwardedBeforeIsLetAlone has the guard, and the settings, only for what we
// switch on: by interface or, for IPv6 on old kernels, all that there is at once.
func TestWhatForwardedBeforeIsLetAlone(t *testing.T) {
	for name, row := range map[string]struct {
		perInterface       bool
		guarded4, guarded6 []string
		uplinks, bridges   string
	}{
		"by interface":              {true, []string{"eth0", "eth6"}, []string{"br-lan", "eth0", "eth5"}, "eth0 4.forwarding 6.force_forwarding eth5 6.force_forwarding eth6 4.forwarding ", ""},
		"all that there is at once": {false, []string{"eth0", "eth6"}, []string{"br-lan", "docker0", "eth0", "eth5", "eth6", "tun0"}, "eth0 4.forwarding 6.accept_ra eth5 eth6 4.forwarding all 6.forwarding ", "docker0"},
	} {
		t.Run(name, func(t *testing.T) {
			host := freshHost()
			host.ForceForwarding = row.perInterface
			host.Uplinks = append(host.Uplinks, plan.HostLink{Name: "eth5"}, plan.HostLink{Name: "eth6"})
			host.Routers4 = []string{"br-lan", "eth5"}
			if row.perInterface {
				host.Routers6 = []string{"eth6"}
			} else {
				host.Others = []plan.HostLink{{Name: "br-lan", Bridge: true}, {Name: "docker0", Bridge: true}, {Name: "tun0"}}
			}
			lan := network("1a1", "172.28.0.0/24", "fd00:28::/64")
			lan.Bridge = "br-lan"
			var s spec.State
			must(t, s.AddNetwork(lan))
			p := plan.New(s, host)
			uplinks := ""
			for _, u := range p.Uplinks {
				uplinks += u.Name + " "
				for _, set := range u.Settings {
					uplinks += fmt.Sprintf("%d.%s ", set.Family, set.Name)
				}
			}
			if diff := cmp.Diff([]any{row.guarded4, row.guarded6, row.uplinks, row.bridges}, []any{p.Guarded4, p.Guarded6, uplinks, strings.Join(p.Bridges, " ")}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func must(t interface {
	Helper()
	Fatal(args ...any)
}, err error,
) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNextEqualsNew shows that planning only what differs leads to the same plan as
// planning everything, whatever the order of changes.
func TestNextEqualsNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := []*plan.Host{freshHost(), {IPv6: false}, {IPv6: true, Forwarding4: true}, {IPv6: true, Blind: true}}
		var s spec.State
		host := hosts[0]
		p := plan.New(s, host)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			before := s
			step(t, &s)
			host = rapid.SampledFrom(hosts).Draw(t, "host")
			p = p.Next(before, s, host)
			if diff := cmp.Diff(plan.New(s, host).String(), p.String()); diff != "" {
				t.Fatalf("Next differs from New (-new +next):\n%s", diff)
			}
		}
	})
}

// step does one random thing to a State; what the rules refuse is left undone.
func step(t *rapid.T, s *spec.State) {
	n := rapid.IntRange(0, 3).Draw(t, "network")
	e := rapid.IntRange(2, 5).Draw(t, "endpoint")
	nw, ep := network(fmt.Sprintf("a%d", n), fmt.Sprintf("10.0.%d.0/24", n), fmt.Sprintf("fd00:%d::/64", n)), id(fmt.Sprintf("e%d%d", n, e))
	next := *s
	var err error
	switch rapid.IntRange(0, 6).Draw(t, "what") {
	case 0:
		nw.MTU = rapid.SampledFrom([]int{0, 1400}).Draw(t, "mtu")
		nw.Apart = rapid.Bool().Draw(t, "apart")
		err = next.AddNetwork(nw)
	case 1:
		next.RemoveNetwork(nw.ID)
	case 2, 3:
		err = next.AddEndpoint(nw.ID, endpoint(string(ep), fmt.Sprintf("10.0.%d.%d/24", n, e), ""))
	case 4:
		next.RemoveEndpoint(nw.ID, ep)
	case 5:
		err = next.Join(nw.ID, ep, "/run/docker/netns/x")
	case 6:
		err = next.Publish(nw.ID, ep, []spec.Port{{Proto: spec.TCP, HostPort: uint16(8000 + e), ContainerPort: 80, Count: 1}}, false)
	}
	if err == nil {
		*s = next
	}
}

func TestWhatAChangeLeavesAloneIsShared(t *testing.T) {
	var s spec.State
	must(t, s.AddNetwork(network("a1", "10.0.1.0/24")))
	must(t, s.AddNetwork(network("a2", "10.0.2.0/24")))
	must(t, s.AddEndpoint(id("a1"), endpoint("e1", "10.0.1.2/24", "")))
	host := freshHost()
	before, p := s, plan.New(s, host)
	must(t, s.AddEndpoint(id("a1"), endpoint("e2", "10.0.1.3/24", "")))
	next := p.Next(before, s, host)

	old, _ := p.Networks.Get(id("a1"))
	now, _ := next.Networks.Get(id("a1"))
	oldEndpoint, _ := old.Endpoints.Get(id("e1"))
	nowEndpoint, _ := now.Endpoints.Get(id("e1"))
	if old == now || old.Bridge != now.Bridge || old.Zone != now.Zone || oldEndpoint != nowEndpoint {
		t.Error("a new endpoint must make a new network plan, and share bridge, zone and the other endpoint")
	}
	oldOther, _ := p.Networks.Get(id("a2"))
	nowOther, _ := next.Networks.Get(id("a2"))
	if oldOther != nowOther {
		t.Error("the other network's plan was not shared")
	}
}

// BenchmarkOneEndpointMore shows what a request pays on a host with 5000 endpoints
// of ten ports each.
func BenchmarkOneEndpointMore(b *testing.B) {
	var s spec.State
	for n := range 50 {
		nw := network(fmt.Sprintf("a%02d", n), fmt.Sprintf("10.%d.0.0/16", n))
		must(b, s.AddNetwork(nw))
		for e := range 100 {
			var ports []spec.Port
			for port := range 10 {
				ports = append(ports, spec.Port{Proto: spec.TCP, HostPort: uint16(1024 + n*1000 + e*10 + port), ContainerPort: 80, Count: 1})
			}
			must(b, s.AddEndpoint(nw.ID, endpoint(fmt.Sprintf("e%02d%02d", n, e), fmt.Sprintf("10.%d.1.%d/16", n, e), "", ports...)))
		}
	}
	host := freshHost()
	p := plan.New(s, host)
	for b.Loop() {
		next := s
		must(b, next.AddEndpoint(id("a00"), endpoint("ff", "10.0.2.1/16", "")))
		p.Next(s, next, host)
	}
}
