package firewalltest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

const whyGuarded = "this host forwards for containers only"

// guard sends from one uplink to another of a host that did not forward before we came.
func guard(t *testing.T, b Backend) {
	for name, forwarding := range map[string]bool{"guarded where the host did not forward": false, "let alone where it did": true} {
		t.Run(name, func(t *testing.T) {
			l := lab.New(t)
			w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64")
			w.Host.Forwarding4, w.Host.Forwarding6 = forwarding, forwarding
			p := w.Plan()
			b.Protect(t, l.Host, p)
			l.Host.Set("net/ipv4/conf/eth0/forwarding", "1")
			l.Host.Set("net/ipv6/conf/all/forwarding", "1")
			scene.Serve(t, l.Outside, "outside", "tcp [::]:80")
			l.Neighbour.Run("ip", "route", "add", lab.Internet+"/32", "via", l.Host.Addr.String())
			l.Neighbour.Run("ip", "route", "add", lab.Internet6+"/128", "via", l.Host.Addr6.String())
			settled(t, l.Neighbour, l.Host.Addr.String(), l.Host.Addr6.String())
			settled(t, l.Host, l.Outside.Addr.String(), l.Outside.Addr6.String())
			for _, address := range []string{lab.Internet + ":80", "[" + lab.Internet6 + "]:80"} {
				if forwarding {
					l.Neighbour.MustReach("tcp", address, "outside")
				} else {
					l.Neighbour.MustNotReach("tcp", address, hello.Drop)
				}
			}
		})
	}
}

// guardOfStrangers has what is neither ours nor an uplink: an engine's bridge, and a
// tunnel without an address. Two interfaces forwarded IPv4 before we came. IPv6 has but
// one switch for all.
func guardOfStrangers(t *testing.T, b Backend) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 8080, 80, 1))
	w.Host.ForceForwarding = false
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd17::/64")}}}
	w.Host.Uplinks = append(w.Host.Uplinks, plan.HostLink{Name: "eth5"}, plan.HostLink{Name: "eth6"})
	w.Host.Others = []plan.HostLink{{Name: "docker0", Bridge: true}, {Name: "tun0"}}
	w.Host.Routers4 = []string{"eth5", "eth6"}
	c := settle(t, b, w)
	c.Bridged("1")
	c.Container("a1", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	c.Bridge("docker0", netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("fd17::1/64"))
	docker := c.Container("docker", "docker0", "172.17.0.2/16", "fd17::2/64")
	c.Container("docker2", "docker0", "172.17.0.3/16", "fd17::3/64")
	far := c.behindTunnel("tun0")
	east, west := c.routed("eth5", 5), c.routed("eth6", 6)
	scene.Serve(t, west, "west", "tcp [::]:80")
	for _, to := range []string{"10.99.0.2/32", "fd99::2/128", "172.17.0.0/16", "10.5.0.0/24"} {
		c.Neighbour.Route(netip.MustParsePrefix(to), c.Host)
	}

	for _, row := range []struct {
		from *lab.Host
		to   string
	}{
		{c.Neighbour, "10.99.0.2:53"},
		{c.Neighbour, "[fd99::2]:53"},
		{c.Neighbour, "172.17.0.2:53"},
		{c.Neighbour, "10.5.0.2:53"},
		{docker, "[" + lab.Internet6 + "]:53"},
		{docker, "[fd99::2]:53"},
		{far, "[" + lab.Internet6 + "]:53"},
		{far, "[fd17::2]:53"},
	} {
		t.Run("to "+row.to, func(t *testing.T) {
			c.T = t
			c.dropped(whyGuarded, func() { tell(t, row.from, row.to, "to whom it may not concern") })
		})
	}
	c.T = t
	c.Reach(east, "tcp", "10.6.0.2:80", "west", "10.5.0.2")
	c.Reach(east, "tcp", "192.0.2.1:8080", "a1", "10.5.0.2")
	c.Reach(docker, "tcp", "[fd17::3]:80", "docker2", "fd17::2")
	c.Reach(docker, "tcp", "[2001:db8:1::1]:8080", "a1", "fd17::2")
	c.Reach(far, "tcp", "[2001:db8:1::1]:8080", "a1", "fd99::2")
}

// behindTunnel is a machine at the other end of a link of the host's that has no address
// but a link-local one.
func (c *town) behindTunnel(link string) *lab.Host {
	h := lab.NewHost(c.T)
	c.Cable(link, c.Host, h)
	c.Host.Run("ip", "addr", "add", "fe80::1/64", "dev", link, "nodad")
	for _, a := range []string{"10.99.0.2/32", "fd99::2/128"} {
		h.Run("ip", "addr", "add", a, "dev", link)
	}
	for _, m := range []*lab.Host{c.Host, h} {
		m.Set("net/ipv6/conf/"+link+"/accept_dad", "0")
		m.Run("ip", "link", "set", link, "up")
	}
	for _, a := range []string{"10.99.0.2/32", "fd99::2/128"} {
		c.Host.Run("ip", "route", "add", a, "dev", link)
	}
	h.Run("ip", "route", "add", "default", "via", "fe80::1", "dev", link)
	return h
}

// routed is a machine behind a link that routes for it.
func (c *town) routed(link string, n int) *lab.Host {
	h := lab.NewHost(c.T)
	c.Cable(link, c.Host, h)
	c.Host.Run("ip", "addr", "add", fmt.Sprintf("10.%d.0.1/24", n), "dev", link)
	h.Run("ip", "addr", "add", fmt.Sprintf("10.%d.0.2/24", n), "dev", link)
	for _, m := range []*lab.Host{c.Host, h} {
		m.Run("ip", "link", "set", link, "up")
	}
	h.Run("ip", "route", "add", "default", "via", fmt.Sprintf("10.%d.0.1", n))
	c.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
	return h
}

// guardOfLan has a LAN behind the bridge of a network, and virtual machines on one that is
// none of ours.
func guardOfLan(t *testing.T, b Backend) {
	w := scene.Lan(t)
	p := w.Plan()
	c := &town{backend: b, Town: scene.Settle(t, p, func(h *lab.Host) {
		h.Run("ip", "link", "add", "virbr0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
		h.Run("ip", "addr", "add", "192.168.122.1/24", "dev", "virbr0")
		h.Run("ip", "link", "set", "virbr0", "up")
		b.Protect(t, h, p)
	})}
	c.Bridged("1")
	a1 := c.Container("a1", "lan0", "172.30.0.2/24", "fd00:30::2/64")
	desk := c.Container("desk", "lan0", "172.30.0.9/24", "fd00:30::9/64")
	c.Container("printer", "lan0", "172.30.0.10/24", "fd00:30::10/64")
	vm := c.Container("vm", "virbr0", "192.168.122.2/24")
	c.Container("vm2", "virbr0", "192.168.122.3/24")
	for _, to := range []string{"172.30.0.0/24", "192.168.122.0/24", "fd00:30::/64"} {
		c.Neighbour.Route(netip.MustParsePrefix(to), c.Host)
	}
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")

	for _, row := range []struct {
		from *lab.Host
		to   string
	}{
		{desk, lab.Internet + ":53"},
		{desk, "[" + lab.Internet6 + "]:53"},
		{desk, "192.168.122.2:53"},
		{vm, lab.Internet + ":53"},
		{vm, "172.30.0.9:53"},
		{c.Neighbour, "172.30.0.9:53"},
		{c.Neighbour, "[fd00:30::9]:53"},
		{c.Neighbour, "192.168.122.2:53"},
	} {
		t.Run("to "+row.to, func(t *testing.T) {
			c.T = t
			c.dropped(whyGuarded, func() { tell(t, row.from, row.to, "to whom it may not concern") })
		})
	}
	c.T = t
	for _, row := range []struct {
		from                  *lab.Host
		address, server, sees string
	}{
		{a1, lab.Internet + ":80", "outside", "192.0.2.1"},
		{a1, "[" + lab.Internet6 + "]:80", "outside", "2001:db8:1::1"},
		{a1, "172.30.0.9:80", "desk", "172.30.0.2"},
		{a1, "192.168.122.2:80", "vm", "192.168.122.1"},
		{desk, "172.30.0.10:80", "printer", "172.30.0.9"},
		{desk, "172.30.0.2:80", "a1", "172.30.0.9"},
		{desk, "192.0.2.1:8080", "a1", "172.30.0.1"},
		{vm, "192.168.122.3:80", "vm2", "192.168.122.2"},
		{vm, "192.168.122.1:8080", "a1", "192.168.122.2"},
		{c.Neighbour, "192.0.2.1:8080", "a1", "192.0.2.3"},
		{c.Neighbour, "[2001:db8:1::1]:8080", "a1", "2001:db8:1::3"},
		{c.Neighbour, "172.30.0.2:80", "a1", "192.0.2.3"},
		{c.Neighbour, "[fd00:30::2]:80", "a1", "2001:db8:1::3"},
	} {
		c.Reach(row.from, "tcp", row.address, row.server, row.sees)
	}

	w.Host.Forwarding4, w.Host.Forwarding6 = true, true
	b.Protect(t, c.Host, w.Plan())
	c.Reach(desk, "tcp", lab.Internet+":80", "outside", "192.0.2.1")
	c.Reach(c.Neighbour, "tcp", "172.30.0.9:80", "desk", "192.0.2.3")
}
