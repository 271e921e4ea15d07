package firewalltest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// hamlet is a town whose network a keeps its containers apart. Something that is no
// container of ours, lan, is on the same bridge, as on one that was there before.
type hamlet struct {
	*town
	a1, a2, lan *lab.Host // 172.30.0.2, which publishes 8080, .3 and .9
	b1, b2      *lab.Host // on an ordinary network, 172.30.1.2 and .3
}

func newHamlet(t *testing.T, b Backend, a spec.Network) *hamlet {
	t.Helper()
	a.Apart, a.Masquerade = true, true
	w := scene.NewWorld(t).
		Network("a", a, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24", "fd00:31::/64").
		Endpoint("a", "f", "172.30.0.3/24", "fd00:30::3/64")
	if a.Bridge != "" {
		w.Host.Uplinks = append(w.Host.Uplinks, plan.HostLink{Name: a.Bridge, Bridge: true})
	}
	if a.Mode4 == spec.Routed {
		w.Open("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 0, 80, 1))
	} else {
		w.Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 8080, 80, 1), scene.UDP("", 8080, 80, 1))
	}
	c := settle(t, b, w)
	bridgeA, bridgeB := scene.Bridge("a"), scene.Bridge("b")
	return &hamlet{
		town: c,
		a1:   c.Behind(scene.Veth("e"), "a1", bridgeA, "172.30.0.2/24", "fd00:30::2/64"),
		a2:   c.Behind(scene.Veth("f"), "a2", bridgeA, "172.30.0.3/24", "fd00:30::3/64"),
		lan:  c.Container("lan", bridgeA, "172.30.0.9/24", "fd00:30::9/64"),
		b1:   c.Container("b1", bridgeB, "172.30.1.2/24", "fd00:31::2/64"),
		b2:   c.Container("b2", bridgeB, "172.30.1.3/24", "fd00:31::3/64"),
	}
}

const (
	whyApart    = "containers that are kept apart"
	whyInternal = "nothing leaves an internal network"
)

// loses asserts that a question is dropped, and by which rule.
func (c *hamlet) loses(from *lab.Host, network, address, why string) {
	c.T.Helper()
	c.dropped(why, func() { from.MustNotReach(network, address, hello.Drop) })
}

// adopted gives the network's bridge the name of one that may have been there before.
func adopted(a spec.Network) spec.Network {
	a.Bridge = scene.Bridge("a")
	return a
}

func keptApart(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		c := newHamlet(t, b, adopted(spec.Network{}))
		c.Bridged(value)
		for _, to := range []struct{ network, address string }{
			{"tcp", "172.30.0.2:80"}, {"udp", "172.30.0.2:80"}, {"tcp", "[fd00:30::2]:80"}, {"udp", "[fd00:30::2]:80"},
		} {
			c.loses(c.a2, to.network, to.address, whyApart)
		}
		if neighbours := c.a2.Run("ip", "neigh", "show", "172.30.0.2"); !strings.Contains(neighbours, "lladdr") {
			t.Errorf("ARP does not pass: %s", neighbours)
		}
		c.b2.MustReach("tcp", "172.30.1.2:80", "b1")
	})
}

func noWayAround(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		for _, mode := range []spec.GatewayMode{spec.NAT, spec.Unprotected, spec.Routed} {
			c := newHamlet(t, b, spec.Network{Mode4: mode, Mode6: mode})
			c.Bridged(value)
			c.a2.Run("ip", "route", "add", "172.30.0.2/32", "via", "172.30.0.1")
			c.a2.Run("ip", "route", "add", "fd00:30::2/128", "via", "fd00:30::1")
			for _, address := range []string{"172.30.0.2:80", "[fd00:30::2]:80"} {
				c.loses(c.a2, "tcp", address, whyApart)
			}
		}
	})
}

func keptApartReachAllElse(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		c := newHamlet(t, b, adopted(spec.Network{}))
		c.Bridged(value)
		scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
		for name, row := range map[string]struct {
			from                           *lab.Host
			network, address, server, sees string
		}{
			"a published port from outside":                       {c.Outside, "tcp", "192.0.2.1:8080", "a1", "192.0.2.2"},
			"a peer's published port at the host":                 {c.a2, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
			"the same by UDP":                                     {c.a2, "udp", "192.0.2.1:8080", "a1", "172.30.0.1"},
			"the same by IPv6":                                    {c.a2, "tcp", "[2001:db8:1::1]:8080", "a1", "fd00:30::1"},
			"a peer's published port at the gateway":              {c.a2, "tcp", "172.30.0.1:8080", "a1", "172.30.0.1"},
			"a container's own published port":                    {c.a1, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
			"a published port from another network":               {c.b1, "tcp", "192.0.2.1:8080", "a1", "172.30.1.2"},
			"the world":                                           {c.a2, "tcp", lab.Internet + ":80", "outside", "192.0.2.1"},
			"the world by IPv6":                                   {c.a2, "tcp", "[" + lab.Internet6 + "]:80", "outside", "2001:db8:1::1"},
			"from the host":                                       {c.Host, "tcp", "172.30.0.2:80", "a1", "172.30.0.1"},
			"a machine on the bridge that is no container":        {c.a2, "tcp", "172.30.0.9:80", "lan", "172.30.0.3"},
			"the same by IPv6, a machine that is no container":    {c.a2, "tcp", "[fd00:30::9]:80", "lan", "fd00:30::3"},
			"from a machine on the bridge":                        {c.lan, "tcp", "172.30.0.2:80", "a1", "172.30.0.9"},
			"the same by IPv6, from a machine on the bridge":      {c.lan, "tcp", "[fd00:30::2]:80", "a1", "fd00:30::9"},
			"a published port, from a machine on the same bridge": {c.lan, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		} {
			t.Run(name, func(t *testing.T) {
				c.T = t
				c.Reach(row.from, row.network, row.address, row.server, row.sees)
			})
		}
	})
}

// keptApartOpenToOthers has each mode open them to all but each other, to whom not
// even ping gets through.
func keptApartOpenToOthers(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		for _, mode := range []spec.GatewayMode{spec.Unprotected, spec.Routed} {
			c := newHamlet(t, b, adopted(spec.Network{Mode4: mode, Mode6: mode}))
			c.Bridged(value)
			for own, client := range map[string]string{"172.30.0.2": "172.30.1.2", "fd00:30::2": "fd00:31::2"} {
				at := netip.AddrPortFrom(netip.MustParseAddr(own), 80).String()
				c.Reach(c.b1, "tcp", at, "a1", client)
				c.b1.MustPing(own)
				c.loses(c.a2, "tcp", at, whyApart)
				c.dropped(whyApart, func() { c.a2.MustNotPing(own) })
			}
		}
	})
}

func internalApart(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		c := newHamlet(t, b, spec.Network{Internal: true})
		c.Bridged(value)
		// As on a host whose ip_forward is 1.
		c.Host.Set("net/ipv4/conf/"+scene.Bridge("a")+"/forwarding", "1")
		c.loses(c.a2, "tcp", "172.30.0.2:80", whyApart)
		c.loses(c.a2, "tcp", "[fd00:30::2]:80", whyApart)
		c.loses(c.a2, "tcp", "172.30.1.2:80", whyInternal)
		c.Reach(c.Host, "tcp", "172.30.0.2:80", "a1", "172.30.0.1")
		c.a2.Run("ip", "route", "add", "172.30.0.2/32", "via", "172.30.0.1")
		c.loses(c.a2, "tcp", "172.30.0.2:80", whyInternal)
	})
}
