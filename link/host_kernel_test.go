package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

func TestKernelFactsNameUplinksAndEngines(t *testing.T) {
	m := newMachine(t)
	m.Set("net/ipv6/conf/tun0/accept_ra", "0")
	m.Run("sh", "-ec", `
		ip link add engine7 type bridge; ip addr add 172.17.0.1/16 dev engine7; ip link set engine7 up
		ip link add docker_gwbridge type bridge; ip addr add 172.18.0.1/16 dev docker_gwbridge; ip link set docker_gwbridge up
		ip link add br-0123456789ab type bridge; ip addr add 172.19.0.1/16 dev br-0123456789ab; ip link set br-0123456789ab up
		ip link add veth7 type veth peer name peer7; ip link set veth7 master engine7 up; ip addr add 10.66.0.1/24 dev veth7
		ip link add virbr0 type bridge; ip addr add 192.168.122.1/24 dev virbr0; ip link set virbr0 up
		ip link add idle type bridge; ip addr add 10.77.0.1/24 dev idle
		ip link add local type bridge; ip addr add 169.254.7.7/16 dev local; ip link set local up`)
	m.mustApply(nil, planFor(m.look("engine7"), usual()...))

	got := m.look("engine7", "vanished")
	want := &plan.Host{
		IPv6:    true,
		Uplinks: []plan.HostLink{{Name: "eth0", AcceptRA: true}, {Name: "tun0"}, {Name: "virbr0", AcceptRA: true, Bridge: true}},
		Engines: []plan.HostLink{{Name: "engine7", Shielded: true, Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}},
	}
	for _, a := range []string{
		"10.66.0.1", "10.77.0.1", "169.254.7.7", "172.17.0.1", "172.18.0.1", "172.19.0.1",
		"192.0.2.1", "192.168.122.1", "198.51.100.1", "2001:db8::1",
	} {
		want.Addresses = append(want.Addresses, netip.MustParseAddr(a))
	}
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding")
	want.ForceForwarding = err == nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestKernelFactsFollowForwarding(t *testing.T) {
	m := newMachine(t)
	m.Set("net/ipv4/ip_forward", "1")
	m.Set("net/ipv6/conf/all/forwarding", "1")
	if host := m.look(); !host.Forwarding4 || !host.Forwarding6 {
		t.Errorf("a host that forwards: %+v", host)
	}
}

func TestKernelObstaclesAreAddressesRoutesAndNameServers(t *testing.T) {
	m := newMachine(t)
	m.Run("sh", "-ec", `
		ip route add default via 192.0.2.254
		ip route add 10.0.0.0/8 via 192.0.2.254
		ip route add 10.50.0.0/16 dev tun0 table 77
		ip route add blackhole 10.60.0.0/16
		ip -6 route add 2001:db8:7::/48 via 2001:db8::2`)
	var list []plan.Obstacle
	var err error
	m.Do(func() { list, err = m.kernel.Taken(t.Context(), nil) })
	must(t, err)
	var got []string
	for _, o := range list {
		if strings.HasPrefix(o.What, "name server ") {
			continue // the machine that runs the tests has its own
		}
		got = append(got, fmt.Sprintf("%s %s weak %t", o.Prefix, o.What, o.Weak))
	}
	for _, want := range []string{
		"192.0.2.0/24 address 192.0.2.1/24 of eth0 weak false",
		"198.51.100.0/24 route 198.51.100.0/24 by tun0 weak false",
		"2001:db8::/64 address 2001:db8::1/64 of eth0 weak false",
		"10.0.0.0/8 route 10.0.0.0/8 by eth0 weak true",
		"10.50.0.0/16 route 10.50.0.0/16 by tun0 weak false",
		"10.60.0.0/16 route 10.60.0.0/16 weak true",
		"2001:db8:7::/48 route 2001:db8:7::/48 by eth0 weak true",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no obstacle %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, o := range list {
		if o.Prefix.Bits() == 0 || o.Prefix.Addr().IsMulticast() || o.Prefix.Addr().IsLinkLocalUnicast() {
			t.Errorf("%v is in nobody's way", o)
		}
	}
}

// TestKernelLinksThatGoAreNoObstacle unless they are somebody else's.
func TestKernelLinksThatGoAreNoObstacle(t *testing.T) {
	m := newMachine(t)
	m.mustApply(nil, m.plan(usual()...))
	taken := func(leaving ...string) (all []string) {
		t.Helper()
		var list []plan.Obstacle
		var err error
		m.Do(func() { list, err = m.kernel.Taken(t.Context(), leaving) })
		must(t, err)
		for _, o := range list {
			all = append(all, o.Link)
		}
		return all
	}
	const going, stays, foreign = "dbraa0000000000", "dbrbb0000000000", "eth0"
	for _, link := range []string{going, stays, foreign} {
		if !slices.Contains(taken(), link) {
			t.Errorf("%s is no obstacle", link)
		}
	}
	got := taken(going, foreign)
	if slices.Contains(got, going) || !slices.Contains(got, stays) || !slices.Contains(got, foreign) {
		t.Errorf("%s goes: obstacles are %q", going, got)
	}
}

func TestKernelBootIDTellsNamespacesApart(t *testing.T) {
	ids := map[string]bool{}
	for range 2 {
		h := lab.NewHost(t)
		var first, second string
		var err1, err2 error
		h.Do(func() { first, err1 = link.BootID() })
		h.Do(func() { second, err2 = link.BootID() })
		must(t, err1)
		must(t, err2)
		if first != second || first == "" {
			t.Errorf("one namespace, two IDs: %q and %q", first, second)
		}
		ids[first] = true
	}
	if len(ids) != 2 {
		t.Errorf("two namespaces, IDs %v", ids)
	}
}

func TestKernelExistsTellsWhetherALinkDoes(t *testing.T) {
	m := newMachine(t)
	for name, want := range map[string]bool{"eth0": true, "dbrnothing": false} {
		if got, err := m.exists(name); got != want || err != nil {
			t.Errorf("%s: %t, %v; want %t", name, got, err, want)
		}
	}
}

// TestKernelExistsTellsWhetherAnEndWasInUse although it has come back since.
func TestKernelExistsTellsWhetherAnEndWasInUse(t *testing.T) {
	m, sandbox := newMachine(t), lab.NewHost(t)
	used := func() (used bool) {
		var exists bool
		var err error
		m.Do(func() { exists, used, err = m.kernel.Exists("end") })
		if !exists || err != nil {
			t.Fatalf("end exists: %t, %v", exists, err)
		}
		return used
	}
	m.Run("sh", "-ec", "ip link add ours type veth peer name end; ip link set ours up")
	if used() {
		t.Error("it has never been up")
	}
	m.Run("ip", "link", "set", "end", "netns", sandbox.Netns())
	sandbox.Run("ip", "link", "set", "end", "name", "eth0", "up")
	sandbox.Run("sh", "-ec", "ip link set eth0 down; ip link set eth0 name end; ip link set end netns "+m.Netns())
	if !used() {
		t.Error("it has been in use")
	}
}

func TestKernelNothingOfOursIsInTheWayOfANamedSubnet(t *testing.T) {
	m := newMachine(t)
	m.mustApply(nil, m.plan(usual()...))
	m.Run("sh", "-ec", `
		ip route add 10.0.0.0/8 via 192.0.2.254
		ip tuntap add tun9 mode tun; ip link set tun9 up; ip route add 10.70.0.0/16 dev tun9
		ip route add 10.50.0.0/16 dev tun0 table 77`)
	var list []plan.Obstacle
	var err error
	m.Do(func() { list, err = m.kernel.Foreign(t.Context()) })
	must(t, err)
	got := map[string]bool{}
	for _, o := range list {
		got[o.What] = true
		if strings.Contains(o.What, "dbr") || strings.Contains(o.What, "name server") {
			t.Errorf("%v is in nobody's way", o)
		}
		if weak := strings.Contains(o.What, "10.0.0.0/8"); o.Weak != weak {
			t.Errorf("%v: weak is %t, want %t", o, o.Weak, weak)
		}
		if tunnel := o.Link == "tun9"; o.Tunnel != tunnel {
			t.Errorf("%v: tunnel is %t, want %t", o, o.Tunnel, tunnel)
		}
	}
	for _, want := range []string{"address 192.0.2.1/24 of eth0", "address 2001:db8::1/64 of eth0", "route 10.50.0.0/16 by tun0", "route 10.70.0.0/16 by tun9", "route 10.0.0.0/8 by eth0"} {
		if !got[want] {
			t.Errorf("no obstacle %q in %v", want, list)
		}
	}
}
