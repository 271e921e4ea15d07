package firewalltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// publishedPorts runs with frames between containers shown to the firewall and, as on
// most hosts, not.
func publishedPorts(t *testing.T, b Backend) {
	scene.BridgedOrNot(t, func(t *testing.T, value string) {
		c := newTown(t, b)
		c.Bridged(value)
		askPublishedPorts(t, c)
	})
}

func askPublishedPorts(t *testing.T, c *town) {
	t.Helper()
	for name, row := range map[string]struct {
		from                           *lab.Host
		network, address, server, sees string
	}{
		"from outside":                                 {c.Outside, "tcp", "192.0.2.1:8080", "a1", "192.0.2.2"},
		"from outside by UDP":                          {c.Outside, "udp", "192.0.2.1:8080", "a1", "192.0.2.2"},
		"from outside to a port of a range":            {c.Outside, "tcp", "192.0.2.1:9001", "a1", "192.0.2.2"},
		"from outside to one address":                  {c.Outside, "tcp", "192.0.2.1:7001", "a1", "192.0.2.2"},
		"from outside to a range of one address":       {c.Outside, "tcp", "192.0.2.1:9101", "a1", "192.0.2.2"},
		"from outside by IPv6":                         {c.Outside, "tcp", "[2001:db8:1::1]:8080", "a1", "2001:db8:1::2"},
		"from the host's own address":                  {c.Host, "tcp", "192.0.2.1:8080", "a1", "192.0.2.1"},
		"from the host's own IPv6 address":             {c.Host, "tcp", "[2001:db8:1::1]:8080", "a1", "2001:db8:1::1"},
		"from 127.0.0.1":                               {c.Host, "tcp", "127.0.0.1:8080", "a1", "172.30.0.1"},
		"from 127.0.0.1 by UDP":                        {c.Host, "udp", "127.0.0.1:8080", "a1", "172.30.0.1"},
		"from 127.0.0.1 to a port of 127.0.0.1":        {c.Host, "tcp", "127.0.0.1:7000", "a1", "172.30.0.1"},
		"from a peer through the host":                 {c.a2, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from a peer through the host by IPv6":         {c.a2, "tcp", "[2001:db8:1::1]:8080", "a1", "fd00:30::1"},
		"from a peer through the gateway":              {c.a2, "tcp", "172.30.0.1:8080", "a1", "172.30.0.1"},
		"from the container itself":                    {c.a1, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from the container itself by UDP":             {c.a1, "udp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from another network of ours":                 {c.b1, "tcp", "192.0.2.1:8080", "a1", "172.30.1.2"},
		"from an engine's network, address kept":       {c.docker, "tcp", "192.0.2.1:8080", "a1", "172.17.0.2"},
		"from the host to the container's own address": {c.Host, "tcp", "172.30.0.2:81", "a1", "172.30.0.1"},
		"from a peer to the container's own address":   {c.a2, "tcp", "172.30.0.2:81", "a1", "172.30.0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			c.T = t
			c.Reach(row.from, row.network, row.address, row.server, row.sees)
		})
	}
}

func containersReachOutside(t *testing.T, b Backend) {
	c := newTown(t, b)
	for _, at := range []string{"tcp [::]:80", "tcp [::]:8080"} {
		scene.Serve(t, c.Outside, "outside", at)
	}
	c.Reach(c.a2, "tcp", lab.Internet+":80", "outside", "192.0.2.1")
	c.Reach(c.a2, "tcp", "["+lab.Internet6+"]:80", "outside", "2001:db8:1::1")
	// Published here, and yet the other machine's port.
	c.Reach(c.a2, "tcp", lab.Internet+":8080", "outside", "192.0.2.1")
	c.Reach(c.b1, "tcp", "192.0.2.2:8080", "outside", "192.0.2.1")
	scene.Serve(t, c.Host, "host", "tcp [::]:22")
	c.Reach(c.a2, "tcp", "172.30.0.1:22", "host", "172.30.0.3")
	c.Reach(c.a2, "tcp", "192.0.2.1:22", "host", "172.30.0.3")
	c.Reach(c.Host, "tcp", "172.30.0.1:22", "host", "172.30.0.1")
}

// anEnginesMasquerade adds the rule with which an engine
// would hide its containers from ours.
func anEnginesMasquerade(t *testing.T, b Backend) {
	c := newTown(t, b)
	c.Host.Run(b.Command, "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
	c.Reach(c.docker, "tcp", "192.0.2.1:8080", "a1", "172.17.0.2")
}

// whatAnEnginePublishes stands in for an engine's DNAT.
func whatAnEnginePublishes(t *testing.T, b Backend) {
	c := newTown(t, b)
	c.Host.Run(b.Command, "-t", "nat", "-A", "PREROUTING", "-d", "192.0.2.1", "-p", "tcp", "--dport", "5000", "-j", "DNAT", "--to-destination", "172.17.0.2:80")
	c.a2.MustReach("tcp", "192.0.2.1:5000", "docker")
	c.a2.MustNotReach("tcp", "172.17.0.2:80", hello.Drop)
}

// linkLocalAddresses asks by an address whose answers no
// container could send.
func linkLocalAddresses(t *testing.T, b Backend) {
	c := newTown(t, b)
	scene.Serve(t, c.Host, "host", "tcp [::]:8080")
	index, _, _ := strings.Cut(c.a2.Run("ip", "-o", "link", "show", "dev", "eth0"), ":")
	var bridge []struct {
		AddrInfo []struct{ Local string } `json:"addr_info"`
	}
	out := c.Host.Run("ip", "-j", "-6", "addr", "show", "dev", scene.Bridge("a"), "scope", "link")
	if err := json.Unmarshal([]byte(out), &bridge); err != nil {
		t.Fatal(err)
	}
	var gateway string
	for _, b := range bridge {
		for _, a := range b.AddrInfo {
			gateway = a.Local
		}
	}
	c.a2.MustReach("tcp", fmt.Sprintf("[%s%%%s]:8080", gateway, index), "host")
}

// establishedFlow goes on while the firewall is made to fit another plan, and while it is
// taken away by others and comes back.
func establishedFlow(t *testing.T, b Backend) {
	c := newTown(t, b)
	conn := c.Outside.Dial("tcp", "192.0.2.1:8080")
	ask := func(when string) {
		t.Helper()
		if _, err := conn.Ask(hello.Patience); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	ask("at first")
	p := scene.Everything(t).Plan() // in which a is still a network
	b.Protect(t, c.Host, p)
	ask("for another plan")
	// What is still on its way meets a host without a firewall, which refuses it.
	lab.Until(t, "the answer is acknowledged", func() error {
		if strings.Contains(c.a1.Run("ss", "-Htin", "sport", "=", ":80"), "unacked:") {
			return errors.New("not yet")
		}
		return nil
	})
	b.Wipe(t, c.Host)
	b.Protect(t, c.Host, p)
	ask("after all was gone")
}
