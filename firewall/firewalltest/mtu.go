package firewalltest

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// pathMTU carries loads over a link that takes less than a container's own: whose router
// says so must be heard by the container, be it the client or the server.
func pathMTU(t *testing.T, b Backend) {
	c := newCounty(t, b)
	far, addresses := c.goFar(), []string{"203.0.113.2", "2001:db8:7::2"}
	// learned asserts what a container takes for the size of the way to far.
	learned := func(t *testing.T, l land, address string, mtu int) {
		t.Helper()
		if route := l.container.Run("ip", "route", "get", address); !strings.Contains(route, fmt.Sprintf(" mtu %d", mtu)) {
			t.Errorf("%s: the way to %s should take %d bytes: %s", l.name, address, mtu, route)
		}
	}
	for _, l := range c.lands {
		for i, address := range addresses {
			for what, err := range map[string]func() error{
				"from a container that is asked": func() error { return download(far, l.outer[i]) },
				"from a container that asks":     func() error { return upload(l.container, net.JoinHostPort(address, "90")) },
			} {
				l.container.Run("ip", "route", "flush", "cache")
				l.container.Run("ip", "-6", "route", "flush", "cache")
				if err := err(); err != nil {
					t.Errorf("%s, %s, to %s: %v", l.name, what, address, err)
					continue
				}
				learned(t, l, address, narrow)
			}
		}
	}
	// What leaves by the host's own uplink is seen by the host itself.
	const narrower = 1280
	c.Host.Run("ip", "link", "set", "eth0", "mtu", fmt.Sprint(narrower))
	for _, l := range c.lands {
		for i, address := range addresses {
			if err := download(far, l.outer[i]); err != nil {
				t.Errorf("%s, by a narrow uplink, to %s: %v", l.name, address, err)
			}
			learned(t, l, address, narrower)
		}
	}
}

// large is the size of a datagram that does not go into one packet, in bytes.
const large = 4000

// fragments asks with datagrams that go in several packets, both ways.
func fragments(t *testing.T, b Backend) {
	scene.BridgedOrNot(t, func(t *testing.T, value string) {
		c := newCounty(t, b)
		c.Bridged(value)
		peer := c.Container("peer", scene.Bridge("1"), "172.30.1.3/24", "fd00:30:1::3/64")
		settled(t, peer, "172.30.1.1", "fd00:30:1::1")
		echoed := func(what string, from *lab.Host, address string) {
			t.Helper()
			if err := echo(from, address, large); err != nil {
				t.Errorf("%s, %s: %v", what, address, err)
			}
		}
		for _, l := range c.lands {
			echoed("from "+l.name+" outside", l.container, "192.0.2.2:90")
			echoed("from "+l.name+" outside", l.container, "[2001:db8:1::2]:90")
			for _, address := range l.outer {
				echoed("from outside to "+l.name, c.Outside, address)
				echoed("from a container to "+l.name, peer, address)
			}
		}
		for _, address := range []string{"172.30.1.2:90", "[fd00:30:1::2]:90"} {
			echoed("from a peer", peer, address)
			echoed("from the host", c.Host, address)
		}
		echoed("from 127.0.0.1", c.Host, "127.0.0.1:8091")
	})
}

// linkLocalClients are of a network in which every machine chooses its own address.
func linkLocalClients(t *testing.T, b Backend) {
	const own = "169.254.7.1"
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24").
		Endpoint("a", "e", "172.30.0.2/24", "", scene.TCP("", 8080, 80, 1), scene.UDP("", 8080, 80, 1), scene.TCP(own, 8081, 80, 1))
	c := settle(t, b, w)
	c.Container("a1", scene.Bridge("a"), "172.30.0.2/24")
	a2 := c.Container("a2", scene.Bridge("a"), "172.30.0.3/24")
	c.Host.Run("ip", "addr", "add", own+"/16", "dev", "eth0")
	c.Neighbour.Run("ip", "addr", "add", "169.254.7.3/16", "dev", "eth0")
	scene.Serve(t, c.Neighbour, "neighbour", "tcp [::]:80")
	c.Reach(c.Neighbour, "tcp", own+":8080", "a1", "169.254.7.3")
	c.Reach(c.Neighbour, "udp", own+":8080", "a1", "169.254.7.3")
	c.Reach(c.Neighbour, "tcp", own+":8081", "a1", "169.254.7.3")
	c.Reach(c.Host, "tcp", own+":8080", "a1", own)
	c.Reach(a2, "tcp", own+":8080", "a1", "172.30.0.1")
	c.Reach(a2, "tcp", "169.254.7.3:80", "neighbour", own)
}
