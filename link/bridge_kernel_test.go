package link_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// A container that knows its gateway's MAC goes on sending to it.
func TestKernelBridgeThatIsMadeAnewHasTheMACThatItHad(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	show := func() (index, mac string) {
		line := m.Run("ip", "-o", "link", "show", "dbraa0000000000")
		index, _, _ = strings.Cut(line, ":")
		_, mac, _ = strings.Cut(line, "link/ether ")
		return index, mac
	}
	index, mac := show()
	m.Run("ip", "link", "del", "dbraa0000000000")
	m.mustApply(nil, want)
	switch newIndex, newMAC := show(); {
	case newIndex == index:
		t.Errorf("it is the bridge of before: %s", index)
	case newMAC != mac || mac == "":
		t.Errorf("the MAC is %s and was %s", newMAC, mac)
	}
}

// The kernel gives a bridge without a MAC of its own the lowest of its ports'.
func TestKernelOurPortsDoNotChangeABridgesMAC(t *testing.T) {
	m := newMachine(t)
	m.Run("sh", "-ec", `
		ip link add br-lan type bridge; ip link set br-lan addrgenmode none
		ip link add lan0 address 52:54:00:12:34:56 type veth peer name lan1; ip link set lan0 master br-lan; ip link set br-lan up`)
	m.mustApply(nil, m.plan(onLAN()...))
	if got := m.Run("ip", "link", "show", "br-lan"); !strings.Contains(got, "52:54:00:12:34:56") {
		t.Errorf("it has another MAC now: %s", got)
	}
}

// One without ports has a MAC of chance, which is the gateway's as soon as containers
// know it.
func TestKernelMACOfABareBridgeStaysAsContainersComeAndGo(t *testing.T) {
	m := newMachine(t)
	m.Run("ip", "link", "add", "br-lan", "type", "bridge")
	mac := func() string { return strings.Fields(m.Run("ip", "-br", "link", "show", "br-lan"))[2] }
	found, host := mac(), m.look()
	states := [][]func(*spec.State){onLAN()[:1], onLAN()[:2], onLAN(), {onLAN()[0], onLAN()[2]}, {}}
	for i, state := range states {
		m.mustApply(nil, planFor(host, state...))
		if got := mac(); got != found {
			t.Errorf("step %d: the MAC is %s and was %s", i, got, found)
		}
	}
}

func TestKernelPairsHaveTheMTUOfAnAdoptedBridge(t *testing.T) {
	for _, row := range []struct{ option, bridge, want int }{{0, 1300, 1300}, {0, 9000, 9000}, {1280, 1300, 1280}, {1400, 1300, 1400}} {
		m := newMachine(t)
		m.Run("sh", "-ec", fmt.Sprintf("ip link add br-lan type bridge; ip link set br-lan mtu %d", row.bridge))
		state := onLAN()
		state[0] = adjusted("aa", func(n *spec.Network) { n.Bridge, n.MTU = "br-lan", row.option }, "10.1.0.0/24", "fd00:1::/64")
		want := m.plan(state...)
		m.mustApply(nil, want)
		m.mustBeAsPlanned(want)
		mtu := func(mtu int) string { return fmt.Sprintf(" mtu %d ", mtu) }
		for link, want := range map[string]int{"br-lan": row.bridge, "dbva10000000000": row.want, "dbpa10000000000": row.want} {
			if got := m.Run("ip", "link", "show", link); !strings.Contains(got, mtu(want)) {
				t.Errorf("option %d, bridge %d: want%sof %s: %s", row.option, row.bridge, mtu(want), link, got)
			}
		}
		m.Run("ip", "link", "set", "br-lan", "mtu", "1290") // pairs that are there keep theirs
		m.mustBeAsPlanned(want)
	}
}

func TestKernelBridgesCarryLinkLocalAndTheNarrowestSubnets(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	want := m.plan(
		network("aa", "10.1.0.0/30", "fe80::/64"),
		adjusted("bb", func(n *spec.Network) {
			n.Pools = []spec.Pool{
				{Prefix: netip.MustParsePrefix("10.2.0.0/31"), Gateway: netip.MustParsePrefix("10.2.0.1/31").Addr()},
				{Prefix: netip.MustParsePrefix("10.2.1.1/32"), Gateway: netip.MustParsePrefix("10.2.1.1/32").Addr()},
				{Prefix: netip.MustParsePrefix("fd00:2::/127"), Gateway: netip.MustParsePrefix("fd00:2::1/127").Addr()},
				{Prefix: netip.MustParsePrefix("fe80:1234::/64"), Gateway: netip.MustParsePrefix("fe80:1234::1/64").Addr()},
			}
		}),
		adjusted("cc", func(n *spec.Network) { n.InhibitIPv4 = true }, "10.3.0.0/31", "fd00:3::/64"),
		adjusted("dd", func(n *spec.Network) { n.Mode4, n.Mode6, n.Internal = spec.Isolated, spec.Isolated, true }, "10.4.0.0/24", "fd00:4::/64"),
	)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	for bridge, addresses := range map[string]string{
		"dbraa0000000000": "10.1.0.1/30 fe80::1/64",
		"dbrbb0000000000": "10.2.0.1/31 10.2.1.1/32 fd00:2::1/127 fe80:1234::1/64",
		"dbrcc0000000000": "fd00:3::1/64",
		"dbrdd0000000000": "",
	} {
		var got []string
		for _, line := range strings.Split(m.Run("ip", "-o", "addr", "show", "dev", bridge), "\n") {
			if words := strings.Fields(line); len(words) > 3 {
				got = append(got, words[3])
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != addresses {
			t.Errorf("%s has %q, want %q", bridge, got, addresses)
		}
	}
	if m.Sysctl("net/ipv6/conf/dbrdd0000000000/disable_ipv6") != "1" {
		t.Error("an isolated bridge has IPv6")
	}
	m.Run("ip", "addr", "del", "fe80::1/64", "dev", "dbraa0000000000")
	if drift := m.check(want); drift != "link dbraa0000000000 address fe80::1/64: want present, got nothing" {
		t.Errorf("drift: %s", drift)
	}
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.remove()
	m.equals(before)

	m.found(lan + downAgain)
	before = m.Snapshot()
	m.mustApply(nil, m.plan(adjusted("aa", func(n *spec.Network) { n.Bridge = "br-lan" }, "10.1.0.0/24", "fe80::/64")))
	if got := m.Run("ip", "addr", "show", "dev", "br-lan"); !strings.Contains(got, "fe80::1/64") {
		t.Errorf("adopted:\n%s", got)
	}
	m.remove()
	m.equals(before)
}

// It has one of its own from its first carrier on.
func TestKernelLinkLocalAddressOfTheKernelStays(t *testing.T) {
	m := newMachine(t)
	want := m.plan(network("aa", "10.1.0.0/24", "fe80::/64"), endpoint("aa", "a1", "10.1.0.2/24"))
	m.mustApply(nil, want)
	m.Run("ip", "link", "set", "dbpa10000000000", "up")
	both := func() error {
		if got := m.Run("ip", "-o", "addr", "show", "dev", "dbraa0000000000", "scope", "link"); strings.Count(got, "fe80:") != 2 {
			return errors.New(got)
		}
		return nil
	}
	lab.Until(t, "the bridge has both", both)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	must(t, both())
}
