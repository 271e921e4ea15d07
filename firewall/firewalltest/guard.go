package firewalltest

import (
	"net/netip"
	"testing"

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
