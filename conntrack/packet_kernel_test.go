package conntrack

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// rules translate what a network of ours needs.
const rules = `
table inet test {
	chain in { type nat hook prerouting priority dstnat
		iif eth0 udp dport 8080 meta nfproto ipv4 dnat ip to 172.30.1.2:80
		iif eth0 udp dport 8080 meta nfproto ipv6 dnat ip6 to [fd00:30:1::2]:80
		iif eth0 udp dport 8081 meta nfproto ipv4 dnat ip to 172.30.1.3:80
	}
	chain out { type nat hook postrouting priority srcnat
		oif eth0 ip saddr 172.30.1.0/24 masquerade
	}
}
`

// container is a machine behind the host.
func container(l *lab.Lab, name string, last string) *lab.Host {
	c := l.Attach(name)
	l.Cable(name, l.Host, c)
	l.Host.Run("ip", "link", "set", name, "master", "br0", "up")
	c.Run("ip", "link", "del", "eth0")
	c.Run("ip", "addr", "add", "172.30.1."+last+"/24", "dev", name)
	c.Run("ip", "addr", "add", "fd00:30:1::"+last+"/64", "dev", name, "nodad")
	c.Run("ip", "link", "set", name, "up")
	c.Run("ip", "route", "add", "default", "via", "172.30.1.1")
	c.Run("ip", "route", "add", "default", "via", "fd00:30:1::1")
	c.Serve("udp", "172.30.1."+last+":80")
	c.Serve("udp", "[fd00:30:1::"+last+"]:80")
	return c
}

func TestKernelEntriesThatPacketsMadeGo(t *testing.T) {
	eachWay(t, func(t *testing.T, ways map[uint8]way) {
		l := lab.New(t)
		l.Host.Feed(rules, "nft", "-f", "-")
		l.Host.Set("net/ipv4/ip_forward", "1")
		l.Host.Set("net/ipv6/conf/all/forwarding", "1")
		l.Host.Run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
		l.Host.Run("ip", "addr", "add", "172.30.1.1/24", "dev", "br0")
		l.Host.Run("ip", "addr", "add", "fd00:30:1::1/64", "dev", "br0", "nodad")
		l.Host.Run("ip", "link", "set", "br0", "up")
		c2, c3 := container(l, "c2", "2"), container(l, "c3", "3")
		l.Outside.Route(netip.MustParsePrefix("172.30.1.0/24"), l.Host)
		l.Outside.Route(netip.MustParsePrefix("fd00:30:1::/64"), l.Host)
		l.Outside.Serve("udp", "192.0.2.2:80")
		l.Outside.Serve("udp", "[2001:db8:1::2]:80")

		m := newMachine(t, l.Host)
		m.ways, m.small = ways, 0
		m.joined("b", 2)
		m.joined("c", 3)
		m.apply()
		for _, c := range []*lab.Host{c2, c3} {
			c.MustReach("udp", "192.0.2.2:80", "outside")
			c.MustReach("udp", "[2001:db8:1::2]:80", "outside")
		}
		for _, address := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080", "172.30.1.2:80", "[fd00:30:1::2]:80"} {
			l.Outside.MustReach("udp", address, "c2")
		}
		l.Outside.MustReach("udp", "192.0.2.1:8081", "c3")
		l.Outside.MustReach("udp", "[fd00:30:1::3]:80", "c3")

		m.state.Leave(id("a"), id("b"))
		gone := strings.Join(m.changes(m.apply), "\n")
		want := strings.Join(ofEndpoint(2), "\n")
		if gone != want {
			t.Errorf("gone:\n%s\nwant:\n%s", gone, want)
		}
		others := m.sources()
		for _, e := range []string{"[172.30.1.3 192.0.2.2]", "[fd00:30:1::3 2001:db8:1::2]", "[192.0.2.2 172.30.1.3]", "[2001:db8:1::2 fd00:30:1::3]"} {
			if others[e] != 1 {
				t.Errorf("%d entries %s are left, want 1: %v", others[e], e, others)
			}
		}
	})
}
