package firewalltest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

func closed(t *testing.T, b Backend) {
	c := newTown(t, b)
	for _, to := range []string{"172.30.0.0/24", "172.30.1.0/24", "172.30.2.0/24", "fd00:30::/64"} {
		c.Neighbour.Route(netip.MustParsePrefix(to), c.Host)
	}
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
	c.i1.Run("ip", "route", "replace", "default", "via", "172.30.2.1")
	fates(t, map[string]question{
		"a container's own address, from a neighbour with a route": {c.Neighbour, "tcp", "172.30.0.2:80", hello.Drop},
		"the same by UDP":                                          {c.Neighbour, "udp", "172.30.0.2:80", hello.Drop},
		"the same by IPv6":                                         {c.Neighbour, "tcp", "[fd00:30::2]:80", hello.Drop},
		"a container that publishes nothing":                       {c.Neighbour, "tcp", "172.30.1.2:80", hello.Drop},
		"a container of another network":                           {c.b1, "tcp", "172.30.0.2:80", hello.Drop},
		"the same the other way":                                   {c.a1, "tcp", "172.30.1.2:80", hello.Drop},
		"a container of ours, from an engine's":                    {c.docker, "tcp", "172.30.0.2:80", hello.Drop},
		"an engine's container, from ours":                         {c.a1, "tcp", "172.17.0.2:80", hello.Drop},
		"an internal network, from a neighbour":                    {c.Neighbour, "tcp", "172.30.2.2:80", hello.Drop},
		"an internal network, from a network":                      {c.a1, "tcp", "172.30.2.2:80", hello.Drop},
		"the world, from an internal network":                      {c.i1, "tcp", lab.Internet + ":80", hello.Drop},
		"the port of an internal network, from outside":            {c.Outside, "tcp", "192.0.2.1:7100", hello.Drop},
		"a network, from an internal network":                      {c.i1, "tcp", "172.30.0.2:80", hello.Drop},
		"a port that is published on 127.0.0.1 only, from outside": {c.Outside, "tcp", "192.0.2.1:7000", hello.Refuse},
		"a port that is published on one address, on another":      {c.Host, "tcp", "127.0.0.1:7001", hello.Refuse},
		"a port behind the end of a range":                         {c.Outside, "tcp", "192.0.2.1:9003", hello.Refuse},
		"a published port on ::1, which is refused at once":        {c.Host, "tcp", "[::1]:8080", hello.Refuse},
	})
	c.i1.MustReach("tcp", "172.30.2.3:80", "i2")
	// Each direction by itself, although one would spoil a conversation.
	c.dropped("nothing leaves an internal network", func() { c.i1.MustNotReach("tcp", lab.Internet+":80", hello.Drop) })
	c.dropped("nothing enters an internal network", func() { c.Neighbour.MustNotReach("tcp", "172.30.2.2:80", hello.Drop) })
}

// loopback sends what a machine on the wire can craft for a host whose bridges have
// route_localnet.
func loopback(t *testing.T, b Backend) {
	c := newTown(t, b)
	scene.Serve(t, c.Host, "host", "tcp 127.0.0.1:22")
	c.Host.MustReach("tcp", "127.0.0.1:22", "host")
	for _, from := range []struct {
		host *lab.Host
		via  string
	}{{c.a2, "172.30.0.1"}, {c.Neighbour, "192.0.2.1"}} {
		from.host.Set("net/ipv4/conf/all/route_localnet", "1")
		from.host.Run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
		from.host.Run("ip", "route", "add", "127.0.0.1", "via", from.via)
		c.dropped(whyLoopback, func() { from.host.MustNotReach("tcp", "127.0.0.1:22", hello.Drop) })
		from.host.MustNotReach("tcp", "127.0.0.1:7000", hello.Drop)
	}
}

// acceptsOfOthers has somebody accept everything, ahead of all where that can be.
func acceptsOfOthers(t *testing.T, b Backend) {
	c := newTown(t, b)
	c.Neighbour.Route(netip.MustParsePrefix("172.30.0.0/16"), c.Host)
	for _, rule := range []string{"raw -A PREROUTING", "mangle -A PREROUTING", "mangle -A FORWARD", "filter -I FORWARD", "filter -I INPUT"} {
		c.Host.Run(b.Command, strings.Fields("-t "+rule+" -j ACCEPT")...)
	}
	for _, row := range []struct {
		from    *lab.Host
		address string
		why     string
	}{
		{c.Neighbour, "172.30.0.2:80", "not published"},
		{c.b1, "172.30.0.2:80", "not published"},
		{c.docker, "172.30.0.2:80", "not published"},
		{c.a1, "172.17.0.2:80", "not published by the engine"},
		{c.Neighbour, "172.30.2.2:80", "nothing enters an internal network"},
	} {
		c.dropped(row.why, func() { row.from.MustNotReach("tcp", row.address, hello.Drop) })
	}
	c.Reach(c.Outside, "tcp", "192.0.2.1:8080", "a1", "192.0.2.2")
}

// dropsOfOthers has somebody drop what is published, as an administrator does in an
// engine's DOCKER-USER.
func dropsOfOthers(t *testing.T, b Backend) {
	c := newTown(t, b)
	c.Reach(c.Outside, "tcp", "192.0.2.1:8080", "a1", "192.0.2.2")
	c.Host.Run(b.Command, "-I", "FORWARD", "-i", "eth0", "-s", "192.0.2.2", "-j", "DROP")
	c.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Drop)
	c.Reach(c.Neighbour, "tcp", "192.0.2.1:8080", "a1", "192.0.2.3")
}
