package scene

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Town is a lab whose host has the bridges of a plan, with containers on them.
type Town struct {
	*lab.Lab
	// T is the test that is running; a subtest puts itself here.
	T     testing.TB
	links int
}

// Settle makes a Town. Before the bridges come, protect puts up the firewall.
func Settle(t testing.TB, p *plan.Plan, protect func(*lab.Host)) *Town {
	t.Helper()
	c := &Town{Lab: lab.New(t), T: t}
	protect(c.Host)
	for _, u := range p.Uplinks {
		c.settings(u.Name, u.Settings)
	}
	for _, n := range p.Networks.All() {
		c.Bridge(n.Bridge.Name, n.Bridge.Addresses...)
		c.settings(n.Bridge.Name, n.Bridge.Settings)
	}
	return c
}

// Bridged sets whether frames between containers are shown to the firewall.
func (c *Town) Bridged(value string) {
	if _, err := c.Host.Try("test", "-e", "/proc/sys/net/bridge"); err == nil {
		for _, family := range []string{"ip", "ip6", "arp"} {
			c.Host.Set("net/bridge/bridge-nf-call-"+family+"tables", value)
		}
	}
}

// BridgedOrNot runs a test both ways.
func BridgedOrNot(t *testing.T, test func(t *testing.T, value string)) {
	t.Helper()
	for name, value := range map[string]string{"bridged frames are filtered": "1", "bridged frames are not filtered": "0"} {
		t.Run(name, func(t *testing.T) { test(t, value) })
	}
}

func (c *Town) settings(link string, settings []plan.Setting) {
	for _, s := range settings {
		c.Host.Set(fmt.Sprintf("net/ipv%d/conf/%s/%s", s.Family, link, s.Name), fmt.Sprint(s.Value))
	}
}

// Bridge adds a bridge to the host. It detects no duplicates of its link-local address, as
// ours do not: until it has one the host asks for no neighbour on behalf of others.
func (c *Town) Bridge(name string, addresses ...netip.Prefix) {
	c.Host.Run("ip", "link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0")
	c.Host.Set("net/ipv6/conf/"+name+"/accept_dad", "0")
	c.addresses(name, addresses)
	c.Host.Run("ip", "link", "set", name, "up")
}

func (c *Town) addresses(link string, addresses []netip.Prefix) {
	for _, a := range addresses {
		args := []string{"addr", "add", a.String(), "dev", link}
		if a.Addr().Is6() {
			args = append(args, "nodad")
		}
		c.Host.Run("ip", args...)
	}
}

// Container is a machine on a bridge of the host, with default routes through it
// and servers on ports 80, 81, 9001 and 9101.
func (c *Town) Container(name, bridge string, addresses ...string) *lab.Host {
	c.links++
	return c.Behind(fmt.Sprintf("veth%d", c.links), name, bridge, addresses...)
}

// Behind is Container at a certain port of the bridge.
func (c *Town) Behind(port, name, bridge string, addresses ...string) *lab.Host {
	h := lab.NewHost(c.T)
	c.Host.Run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", Namespace(c.T, h))
	c.Host.Run("ip", "link", "set", port, "master", bridge, "up")
	c.Host.Run("bridge", "link", "set", "dev", port, "hairpin", "on")
	h.Set("net/ipv6/conf/eth0/accept_dad", "0")
	for _, a := range addresses {
		h.Run("ip", "addr", "add", a, "dev", "eth0")
	}
	h.Run("ip", "link", "set", "eth0", "up")
	for _, a := range addresses {
		gateway := netip.MustParsePrefix(a).Masked().Addr().Next()
		h.Run("ip", "route", "add", "default", "via", gateway.String())
	}
	for _, at := range []string{"tcp [::]:80", "udp [::]:80", "tcp [::]:81", "tcp [::]:9001", "tcp [::]:9101"} {
		Serve(c.T, h, name, at)
	}
	if slices.ContainsFunc(addresses, func(a string) bool { return netip.MustParsePrefix(a).Addr().Is6() }) {
		h.AwaitIPv6("eth0")
		c.Host.AwaitIPv6(bridge)
	}
	return h
}

// Serve answers on a machine in somebody's name, e.g. at "tcp [::]:80".
func Serve(t testing.TB, h *lab.Host, name, at string) {
	t.Helper()
	network, address, _ := strings.Cut(at, " ")
	var server *hello.Server
	var err error
	h.Do(func() { server, err = hello.Serve(network, address, name) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
}

// Namespace is a path of a machine's network namespace for other processes.
func Namespace(t testing.TB, h *lab.Host) string {
	t.Helper()
	var f *os.File
	var err error
	h.Do(func() { f, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return filepath.Join("/proc", fmt.Sprint(os.Getpid()), "fd", fmt.Sprint(f.Fd()))
}

// Reach asserts that the server answers, and what client it sees.
func (c *Town) Reach(from *lab.Host, network, address, server, client string) {
	c.T.Helper()
	if got := from.MustReach(network, address, server).Addr().Unmap(); got != netip.MustParseAddr(client) {
		c.T.Errorf("%s -> %s/%s: the server sees %s, want %s", client, address, network, got, client)
	}
}
