package firewalltest

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// resort is a town whose networks are open in different ways. Each has one container,
// 172.30.N.2 and fd00:30:N::2, which publishes or opens port 80 and not 81.
type resort struct {
	*town
	nat, unprotected, routed, mixed, internal *lab.Host // N is 1 to 5
	docker                                    *lab.Host // on an engine's bridge
}

func newResort(t *testing.T, b Backend) *resort {
	t.Helper()
	w := scene.NewWorld(t)
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd17::/64")}}}
	nat := scene.TCP("", 0, 80, 1)
	for i, n := range []spec.Network{
		{Masquerade: true, Trusted: []string{"trusted0"}},
		{Masquerade: true, Mode4: spec.Unprotected, Mode6: spec.Unprotected},
		{Masquerade: true, Mode4: spec.Routed, Mode6: spec.Routed},
		{Masquerade: true, Mode6: spec.Routed},
		{Masquerade: true, Internal: true, Mode4: spec.Routed, Mode6: spec.Unprotected},
	} {
		number := fmt.Sprint(i + 1)
		w.Network(number, n, "172.30."+number+".0/24", "fd00:30:"+number+"::/64")
		published, open := []spec.Port{nat}, []spec.Port(nil)
		published[0].HostPort = uint16(8080 + i + 1)
		switch {
		case n.Mode4 == spec.Routed:
			published, open = nil, []spec.Port{scene.TCP("0.0.0.0", 80, 80, 1), scene.TCP("::", 80, 80, 1)}
		case n.Mode6 == spec.Routed:
			published[0].Host, open = netip.IPv4Unspecified(), []spec.Port{scene.TCP("::", 80, 80, 1)}
		}
		ep := spec.Endpoint{
			ID: scene.ID(fmt.Sprintf("%c", 'a'+i)), Ports: published, Open: open,
			IPv4: netip.MustParsePrefix("172.30." + number + ".2/24"), IPv6: netip.MustParsePrefix("fd00:30:" + number + "::2/64"),
		}
		if err := w.State.AddEndpoint(scene.ID(number), &ep); err != nil {
			t.Fatal(err)
		}
	}
	c := &resort{town: settle(t, b, w)}
	c.Bridge("docker0", netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("fd17::1/64"))
	for _, link := range []string{"docker0", scene.Bridge("5")} {
		c.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
		c.Host.Set("net/ipv6/conf/"+link+"/force_forwarding", "1")
	}
	for i, h := range []**lab.Host{&c.nat, &c.unprotected, &c.routed, &c.mixed, &c.internal} {
		n := fmt.Sprint(i + 1)
		*h = c.Container("c"+n, scene.Bridge(n), "172.30."+n+".2/24", "fd00:30:"+n+"::2/64")
	}
	c.docker = c.Container("docker", "docker0", "172.17.0.2/16", "fd17::2/64")
	c.Neighbour.Route(netip.MustParsePrefix("172.30.0.0/16"), c.Host)
	c.Neighbour.Route(netip.MustParsePrefix("fd00:30::/32"), c.Host)
	return c
}

// in are the two addresses of the container of network n.
func in(n int) (ipv4, ipv6 string) {
	return fmt.Sprintf("172.30.%d.2", n), fmt.Sprintf("fd00:30:%d::2", n)
}

// fate is what becomes of questions to a container's own address.
type fate struct{ open, closed, ping bool }

// meets are somebody's questions to an address of a container's own.
func (f fate) meets(who string, from *lab.Host, address string) map[string]question {
	all := map[string]question{}
	for what, reached := range map[string]bool{"80": f.open, "81": f.closed, ping: f.ping} {
		q := question{from: from, network: "tcp", address: net.JoinHostPort(address, what), want: hello.Drop}
		if what == ping {
			q.network, q.address = ping, address
		}
		if reached {
			q.want = hello.Accept
		}
		all[who+" asks for "+what+" of "+address] = q
	}
	return all
}

func gatewayModes(t *testing.T, b Backend) {
	c := newResort(t, b)
	shut, wide, ports := fate{}, fate{true, true, true}, fate{open: true, ping: true}
	for name, row := range map[string]struct {
		network    int
		ipv4, ipv6 fate
	}{
		"nat opens nothing":                          {1, shut, shut},
		"nat-unprotected opens all":                  {2, wide, wide},
		"routed opens what is published, and ping":   {3, ports, ports},
		"each family has its own mode":               {4, shut, ports},
		"an internal network is shut, whatever mode": {5, shut, shut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for silence
			ipv4, ipv6 := in(row.network)
			questions := map[string]question{}
			for who, from := range map[string]*lab.Host{"a neighbour": c.Neighbour, "a container of ours": c.nat, "one of an engine's": c.docker} {
				if from == c.nat && row.network == 1 {
					continue
				}
				maps.Copy(questions, row.ipv4.meets(who, from, ipv4))
				maps.Copy(questions, row.ipv6.meets(who, from, ipv6))
			}
			fates(t, questions)
		})
	}
	// Not even a network that is wide open is open to one that nothing leaves.
	c.internal.Run("ip", "route", "replace", "default", "via", "172.30.5.1")
	c.internal.MustNotReach("tcp", "172.30.2.2:80", hello.Drop)
	// What is open to all keeps its published port.
	c.T = t
	c.Reach(c.Neighbour, "tcp", "192.0.2.1:8082", "c2", "192.0.2.3")
	c.Reach(c.Neighbour, "tcp", "172.30.3.2:80", "c3", "192.0.2.3")
	c.Reach(c.docker, "tcp", "172.30.3.2:80", "c3", "172.17.0.2")
}

// trustedInterfaces has two more machines, each on an interface of its own.
func trustedInterfaces(t *testing.T, b Backend) {
	c := newResort(t, b)
	for i, name := range []string{"trusted0", "other0"} {
		from := lab.NewHost(t)
		c.Host.Run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", scene.Namespace(t, from))
		c.Host.Set("net/ipv4/conf/"+name+"/forwarding", "1")
		c.Host.Set("net/ipv6/conf/"+name+"/force_forwarding", "1")
		subnet, subnet6 := fmt.Sprintf("10.9.%d.", i), fmt.Sprintf("fd09:%d::", i)
		for _, at := range []struct {
			host           *lab.Host
			link, ip4, ip6 string
		}{{c.Host, name, subnet + "1/24", subnet6 + "1/64"}, {from, "eth0", subnet + "2/24", subnet6 + "2/64"}} {
			at.host.Run("ip", "link", "set", at.link, "up")
			at.host.Run("ip", "addr", "add", at.ip4, "dev", at.link)
			at.host.Run("ip", "addr", "add", at.ip6, "dev", at.link, "nodad")
		}
		from.Run("ip", "route", "add", "default", "via", subnet+"1")
		from.Run("ip", "route", "add", "default", "via", subnet6+"1")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := fate{open: name == "trusted0"}
			ipv4, ipv6 := in(1)
			questions := want.meets(name, from, ipv4)
			maps.Copy(questions, want.meets(name, from, ipv6))
			// Trusted by one network, not by all.
			ipv4, _ = in(4)
			maps.Copy(questions, fate{}.meets(name, from, ipv4))
			fates(t, questions)
		})
	}
}

func addressOfChoice(t *testing.T, b Backend) {
	chosen4, chosen6 := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8:1::77")
	w := scene.NewWorld(t).
		Network("a", spec.Network{Masquerade: true, Source4: chosen4, Source6: chosen6}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true, Source6: chosen6}, "172.30.1.0/24", "fd00:31::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 8080, 80, 1))
	c := settle(t, b, w)
	c.Host.Run("ip", "addr", "add", chosen4.String()+"/24", "dev", "eth0")
	c.Host.Run("ip", "addr", "add", chosen6.String()+"/64", "dev", "eth0", "nodad")
	a1 := c.Container("a1", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	a2 := c.Container("a2", scene.Bridge("a"), "172.30.0.3/24", "fd00:30::3/64")
	b1 := c.Container("b1", scene.Bridge("b"), "172.30.1.2/24", "fd00:31::2/64")
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
	c.Reach(a1, "tcp", lab.Internet+":80", "outside", "192.0.2.77")
	c.Reach(a1, "tcp", "["+lab.Internet6+"]:80", "outside", "2001:db8:1::77")
	c.Reach(b1, "tcp", lab.Internet+":80", "outside", "192.0.2.1")
	c.Reach(b1, "tcp", "["+lab.Internet6+"]:80", "outside", "2001:db8:1::77")
	// Only on the way out.
	c.Reach(a2, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1")
	c.Reach(b1, "tcp", "192.0.2.1:8080", "a1", "172.30.1.2")
	c.Reach(c.Host, "tcp", "127.0.0.1:8080", "a1", "172.30.0.1")
	c.Reach(c.Outside, "tcp", "192.0.2.77:8080", "a1", "192.0.2.2")
}
