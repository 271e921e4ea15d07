// Package lab builds the little worlds in which tests run: machines as network
// namespaces without names, a private Docker engine inside one of them, and
// text pictures of a namespace to compare. It does not know Drawbridge's
// packages, only its binary, and it never touches the namespaces of the
// process that runs the tests.
package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Internet is an address behind Outside, reached by nothing but the default
// route; Internet6 is its twin.
const (
	Internet  = "198.51.100.1"
	Internet6 = "2001:db8:ffff::1"
)

// Lab is one switch with machines on it. All of it is gone when the test ends.
type Lab struct {
	t      testing.TB
	fabric *Host // holds the switch, has no address

	// Host is the machine under test: 192.0.2.1 and 2001:db8:1::1 on eth0,
	// default routes through Outside, forwarding off, nothing else.
	Host *Host
	// Outside is the rest of the world, 192.0.2.2 and 2001:db8:1::2. It has no
	// route to any container, so it can answer only what is masqueraded.
	Outside *Host
	// Neighbour is a machine of the same subnet, 192.0.2.3 and 2001:db8:1::3,
	// which may be given routes through Host.
	Neighbour *Host

	// OnDisk has engines keep their files where they are synced, for whoever measures.
	OnDisk bool

	machines int
}

// New builds a lab with its three machines.
func New(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{t: t, fabric: newHost(t, "fabric")}
	l.fabric.Run("ip", "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	l.fabric.Run("ip", "link", "set", "switch", "up")
	// The switch is a switch: no firewall hook sees what it forwards.
	for _, family := range []string{"ip", "ip6", "arp"} {
		l.fabric.setIfThere("net/bridge/bridge-nf-call-"+family+"tables", "0")
	}
	l.Host = l.Attach("host")
	l.Outside = l.Attach("outside")
	l.Neighbour = l.Attach("neighbour")

	l.Outside.Run("ip", "addr", "add", Internet+"/32", "dev", "lo")
	l.Outside.Run("ip", "addr", "add", Internet6+"/128", "dev", "lo", "nodad")
	for _, h := range []*Host{l.Host, l.Neighbour} {
		l.routeOutside(h)
	}
	return l
}

func (l *Lab) routeOutside(h *Host) {
	h.Run("ip", "route", "add", "default", "via", l.Outside.Addr.String())
	h.Run("ip", "-6", "route", "add", "default", "via", l.Outside.Addr6.String())
}

// Attach adds one more machine to the switch. The nth machine of a lab has the
// addresses 192.0.2.n and 2001:db8:1::n.
func (l *Lab) Attach(name string) *Host {
	l.t.Helper()
	l.machines++
	h := newHost(l.t, name)
	h.Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(l.machines)})
	h.Addr6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", l.machines))
	l.plug(h)
	return h
}

// port is the switch's end of a machine's eth0.
func port(h *Host) string { return fmt.Sprintf("port%d", h.Addr.As4()[3]) }

// plug gives a machine an eth0, connected to the switch.
func (l *Lab) plug(h *Host) {
	l.fabric.Run("ip", "link", "add", port(h), "type", "veth",
		"peer", "name", "eth0", "address", fmt.Sprintf("02:00:00:00:00:%02x", h.Addr.As4()[3]), "netns", h.path())
	l.fabric.Run("ip", "link", "set", port(h), "master", "switch", "up")
	// Only this interface goes without duplicate address detection: what an
	// engine or Drawbridge makes later shall meet the kernel's defaults.
	h.Set("net/ipv6/conf/eth0/accept_dad", "0")
	h.Set("net/ipv6/conf/eth0/accept_ra", "0")
	h.Run("ip", "addr", "add", h.Addr.String()+"/24", "dev", "eth0")
	h.Run("ip", "addr", "add", h.Addr6.String()+"/64", "dev", "eth0")
	h.Run("ip", "link", "set", "eth0", "up")
	h.AwaitIPv6("eth0")
}

// AwaitIPv6 waits until an interface has a link-local address and none that is
// tentative, which on a busy machine may take seconds. Before that the machine has no
// source for IPv6, and asks for no neighbour on behalf of others.
func (h *Host) AwaitIPv6(link string) {
	h.t.Helper()
	Until(h.t, link+" is ready", func() error {
		if found := h.Run("ip", "-6", "-o", "addr", "show", "dev", link); !strings.Contains(found, "fe80:") || strings.Contains(found, "tentative") {
			return fmt.Errorf("it has %q", found)
		}
		return nil
	})
}

// reboot gives Host a network as new as after a boot. Nothing may run on it.
func (l *Lab) reboot() {
	l.fabric.Run("ip", "link", "del", port(l.Host))
	l.Host.renew()
	l.plug(l.Host)
	l.routeOutside(l.Host)
}

// Cable connects two machines by one more pair of interfaces, of the same name at
// both ends, down and without addresses.
func (l *Lab) Cable(name string, a, b *Host) {
	l.t.Helper()
	a.Run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", b.path())
}

// Until waits until the condition returns nil, and fails the test with its
// last error if that takes longer than ten seconds.
func Until(t testing.TB, what string, condition func() error) {
	t.Helper()
	within(t, 10*time.Second, what, condition)
}

func within(t testing.TB, limit time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		case <-pause.C:
		}
	}
}

// Cache returns where test/engines/fetch keeps what it brought.
func Cache() (string, error) {
	if dir := os.Getenv("DRAWBRIDGE_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "drawbridge"), nil
}
