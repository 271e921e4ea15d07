package link_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// usual is a network of both families with two endpoints, and an internal one.
func usual() []func(*spec.State) {
	return []func(*spec.State){
		adjusted("aa", func(n *spec.Network) { n.MTU = 1420 }, "10.1.0.0/24", "fd00:1::/64"),
		endpoint("aa", "a1", "10.1.0.2/24"),
		endpoint("aa", "a2", "10.1.0.3/24"),
		adjusted("bb", func(n *spec.Network) { n.Internal = true }, "10.2.0.0/24"),
		endpoint("bb", "b1", "10.2.0.2/24"),
	}
}

func TestKernelLinksAreMadeAsPlanned(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)

	text := m.Snapshot().String()
	for _, line := range []string{
		"dbraa0000000000: linkinfo.info_kind bridge",
		"dbraa0000000000: ifalias " + plan.NetworkMark(id("aa")),
		"dbraa0000000000: mtu 1420",
		"dbraa0000000000: linkinfo.info_data.stp_state 0",
		"dbraa0000000000: linkinfo.info_data.forward_delay 0",
		"net/ipv4/conf/dbraa0000000000/forwarding = 1",
		"net/ipv4/conf/dbraa0000000000/route_localnet = 1",
		"net/ipv6/conf/dbraa0000000000/accept_ra = 0",
		"net/ipv6/conf/dbraa0000000000/autoconf = 0",
		"net/ipv6/conf/dbraa0000000000/accept_dad = 0",
		"net/ipv6/conf/dbrbb0000000000/disable_ipv6 = 1",
		"net/ipv4/conf/dbrbb0000000000/forwarding = 0",
		"dbva10000000000: linkinfo.info_kind veth",
		"dbva10000000000: ifalias " + plan.EndpointMark(id("a1")),
		"dbva10000000000: master dbraa0000000000",
		"dbva10000000000: mtu 1420",
		"dbva10000000000: linkinfo.info_slave_data.hairpin true",
		"net/ipv6/conf/dbva10000000000/disable_ipv6 = 1",
		"dbpa10000000000: mtu 1420",
		"dbpa10000000000: address " + spec.DeriveMAC("a1").String(),
		"dbvb10000000000: master dbrbb0000000000",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the machine lacks: %s", line)
		}
	}
	gateway6 := m.Run("ip", "-6", "-o", "addr", "show", "dev", "dbraa0000000000", "scope", "global")
	if !strings.Contains(gateway6, "fd00:1::1/64") || !strings.Contains(gateway6, "nodad") || strings.Contains(gateway6, "tentative") {
		t.Errorf("IPv6 gateway: %s", gateway6)
	}
	if up := m.Run("ip", "-o", "link", "show", "up"); !strings.Contains(up, "dbraa") || !strings.Contains(up, "dbva1") || strings.Contains(up, " dbpa1") {
		t.Errorf("bridge and host's end must be up, the peer must not: %s", up)
	}
}

// Only with a link-local address can the host ask where a container is on behalf of
// somebody outside.
func TestKernelBridgeAsksForNeighboursAsSoonAsItHasACarrier(t *testing.T) {
	m := newMachine(t)
	m.mustApply(nil, m.plan(usual()...))
	m.Run("ip", "link", "set", "dbpa10000000000", "up")
	lab.Until(t, "the bridge has a link-local address", func() error {
		addrs := m.Run("ip", "-6", "-o", "addr", "show", "dev", "dbraa0000000000", "scope", "link")
		// The kernel takes a moment to see that it need not look for duplicates.
		if !strings.Contains(addrs, "fe80:") || strings.Contains(addrs, "tentative") {
			return errors.New("none yet: " + addrs)
		}
		return nil
	})
}

// What takes all addresses away takes the link-local one too, which the kernel gives once.
func TestKernelBridgeGetsItsLinkLocalAddressBack(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	m.Set("net/ipv6/conf/dbpa10000000000/disable_ipv6", "1")
	m.Run("ip", "link", "set", "dbpa10000000000", "up")
	linkLocal := func() string {
		return m.Run("ip", "-6", "-o", "addr", "show", "dev", "dbraa0000000000", "scope", "link")
	}
	lab.Until(t, "the bridge has a link-local address", func() error {
		if addrs := linkLocal(); !strings.Contains(addrs, "fe80:") || strings.Contains(addrs, "tentative") {
			return errors.New("none yet: " + addrs)
		}
		return nil
	})
	before := m.Snapshot()
	m.Run("ip", "addr", "flush", "dev", "dbraa0000000000")
	if drift := m.check(want); !strings.Contains(drift, "address fe80::") {
		t.Errorf("drift does not name it:\n%s", drift)
	}
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.equals(before)
}

// A container whose pair has another name must not be taken for one that is gone.
func TestKernelJoinedPairsGetTheirNamesBack(t *testing.T) {
	m := newMachine(t)
	m.mustApply(nil, m.plan(usual()...))
	want := m.plan(append(usual(), joined("aa", "a1"))...)
	m.mustApply(nil, want)
	m.Run("sh", "-ec", "ip link set dbva10000000000 down; ip link set dbva10000000000 name mine")
	if drift := m.check(want); strings.Contains(drift, plan.PairField+":") || !strings.Contains(drift, "name: want dbva10000000000, got mine") {
		t.Errorf("drift:\n%s", drift)
	}
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
}

func TestKernelSecondApplyWritesNothing(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	before := m.Snapshot()
	events := m.subscribe()
	m.mustApply(nil, want)
	m.mustApply(want, want)
	m.mustBeAsPlanned(want)
	if got := m.firstEvents(events); got != "" {
		t.Errorf("events of %s", got)
	}
	m.equals(before)
}

// subscribe listens to every kind of event that a write of ours could cause.
func (m *machine) subscribe() *nl.NetlinkSocket {
	m.t.Helper()
	var socket *nl.NetlinkSocket
	var err error
	m.Do(func() {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	})
	must(m.t, err)
	m.t.Cleanup(socket.Close)
	return socket
}

// firstEvents makes an event of its own and returns what came before it.
func (m *machine) firstEvents(socket *nl.NetlinkSocket) string {
	m.t.Helper()
	m.Run("ip", "link", "set", "far1", "alias", "sentinel")
	var before strings.Builder
	for {
		messages, _, err := socket.Receive()
		must(m.t, err)
		for _, e := range messages {
			if strings.Contains(string(e.Data), "sentinel") {
				m.Run("ip", "link", "set", "far1", "alias", "")
				return before.String()
			}
			before.WriteString(" " + strings.Map(printable, string(e.Data)))
		}
	}
}

func printable(r rune) rune {
	if r > ' ' && r < 127 {
		return r
	}
	return -1
}

func TestKernelTamperingIsNamedAndHealed(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	before := m.Snapshot()
	for _, row := range []struct{ name, tamper, want string }{
		{"a deleted bridge", "ip link del BR", "link BR link: want present, got nothing"},
		{"a bridge that is down", "ip link set BR down", "link BR state: want up, got down"},
		{"another MTU of a bridge", "ip link set BR mtu 1300", "link BR mtu: want 1420, got 1300"},
		{"another MAC of a bridge", "ip link set BR address 02:00:00:00:00:99", "link BR address: want "},
		{"a spanning tree", "ip link set BR type bridge stp_state 1 forward_delay 1500", "link BR stp: want off, got on"},
		{"a forward delay", "ip link set BR type bridge forward_delay 200", "link BR forward delay: want 0, got 200"},
		{"a missing gateway", "ip addr del 10.1.0.1/24 dev BR", "link BR address 10.1.0.1/24: want present, got nothing"},
		{"a missing IPv6 gateway", "ip addr del fd00:1::1/64 dev BR", "link BR address fd00:1::1/64: want present, got nothing"},
		{"a surplus address", "ip addr add 10.9.0.1/24 dev BR", "link BR address 10.9.0.1/24: want nothing, got present"},
		{"a gateway that has become secondary", "ip addr flush dev BR scope global; ip addr add 10.1.0.9/24 dev BR; ip addr add 10.1.0.1/24 dev BR", "link BR address 10.1.0.9/24: want nothing, got present"},
		{"another prefix length", "ip addr del 10.1.0.1/24 dev BR; ip addr add 10.1.0.1/16 dev BR", "link BR address 10.1.0.1/24: want present, got nothing"},
		{"forwarding turned off", "echo 0 >/proc/sys/net/ipv4/conf/BR/forwarding", "link BR ipv4.forwarding: want 1, got 0"},
		{"accept_ra turned on", "echo 1 >/proc/sys/net/ipv6/conf/BR/accept_ra", "link BR ipv6.accept_ra: want 0, got 1"},
		{"IPv6 disabled", "echo 1 >/proc/sys/net/ipv6/conf/BR/disable_ipv6", "link BR ipv6.disable_ipv6: want 0, got 1"},
		{"a deleted pair", "ip link del VE", "link VE link: want present, got nothing"},
		{"a deleted peer", "ip link del PEER", "link VE link: want present, got nothing"},
		{"no master", "ip link set VE nomaster", "link VE master: want BR, got nothing"},
		{"another master", "ip link set VE master dbrbb0000000000", "link VE master: want BR, got dbrbb0000000000"},
		{"another MTU", "ip link set VE mtu 1400", "link VE mtu: want 1420, got 1400"},
		{"no hairpin", "bridge link set dev VE hairpin off", "link VE hairpin: want on, got off"},
		{"an isolated port", "bridge link set dev VE isolated on", "link VE isolated: want off, got on"},
		{"a host's end that is down", "ip link set VE down", "link VE state: want up, got down"},
		{"IPv6 on the host's end", "echo 0 >/proc/sys/net/ipv6/conf/VE/disable_ipv6", "link VE ipv6.disable_ipv6: want 1, got 0"},
		{"another MAC of the peer", "ip link set PEER address 02:00:00:00:00:77", "link PEER address: want "},
		{"another MTU of the peer", "ip link set PEER mtu 1300", "link PEER mtu: want 1420, got 1300"},
		{"an uplink that no longer forwards", "echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding", "link eth0 ipv4.forwarding: want 1, got 0"},
		{"a bridge of ours that is not planned", "ip link add dbrcc type bridge; ip link set dbrcc alias 'drawbridge network cc'", "link dbrcc link: want nothing, got present"},
		{"a pair of ours that is not planned", "ip link add dbvcc type veth peer name dbpcc; ip link set dbvcc alias 'drawbridge endpoint cc'", "link dbvcc link: want nothing, got present"},
		{"a bridge that was renamed", "ip link set BR down; ip link set BR name other", "link BR name: want BR, got other"},
		{"a pair that was renamed", "ip link set VE down; ip link set VE name other", "link VE name: want VE, got other"},
		{"a pair that was renamed and is up", "ip link set VE down; ip link set VE name other; ip link set other up", "link VE name: want VE, got other"},
		{"a bridge without its mark", "ip link set BR alias ''", "link BR mark: want MARK, got nothing"},
		{"a bridge with another mark", "ip link set BR alias mine", "link BR mark: want MARK, got mine"},
		{"a pair without its mark", "ip link set VE alias ''", "link VE mark: want "},
		{"a pair with another mark", "ip link set VE alias mine", "link VE mark: want "},
		{"another MAC of the host's end", "ip link set VE address 02:00:00:00:00:77", "link VE address: want "},
		{"an address of the host's end", "ip addr add 10.9.0.1/24 dev VE", "link VE address 10.9.0.1/24: want nothing, got present"},
	} {
		t.Run(row.name, func(t *testing.T) {
			names := strings.NewReplacer("BR", "dbraa0000000000", "VE", "dbva10000000000", "PEER", "dbpa10000000000", "MARK", plan.NetworkMark(id("aa")))
			m.Run("sh", "-ec", names.Replace(row.tamper))
			if drift := m.check(want); !strings.Contains(drift, names.Replace(row.want)) {
				t.Errorf("want drift %q, got\n%s", names.Replace(row.want), drift)
			}
			m.mustApply(nil, want)
			m.mustBeAsPlanned(want)
			m.equals(before)
		})
	}
}

// A process may be killed between any two messages to the kernel.
func TestKernelHalfMadeLinksAreFinished(t *testing.T) {
	const made = "ip link add BR address BIRTH type bridge forward_delay 0; "
	const bridge = made + "ip link set BR alias 'MARK'; "
	const pair = "ip link add VE address VEBIRTH mtu 1420 type veth peer name PEER; "
	for _, row := range []struct{ name, prepare string }{
		{"a bridge without its mark", made},
		{"a bridge with nothing but its mark", bridge},
		{"a bridge that is down", bridge + "ip link set BR mtu 1420 address MAC; "},
		{"a bridge without addresses", bridge + "ip link set BR mtu 1420 address MAC; ip link set BR up"},
		{"a bridge with one address of two", bridge + "ip link set BR up; ip addr add 10.1.0.1/24 brd + dev BR"},
		{"a pair without its mark", bridge + pair + "ip link set VE master BR"},
		{"a pair without a master", bridge + pair + "ip link set VE alias 'VEMARK'"},
		{"a pair that is down", bridge + pair + "ip link set VE master BR alias 'VEMARK'"},
		{"a pair whose bridge is missing", pair + "ip link set VE alias 'VEMARK'"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, fresh := newMachine(t), newMachine(t)
			want := m.plan(usual()...)
			n, _ := want.Networks.Get(id("aa"))
			names := strings.NewReplacer(
				"BR", "dbraa0000000000", "VEBIRTH", link.BirthMAC("dbva10000000000").String(), "BIRTH", link.BirthMAC("dbraa0000000000").String(),
				"MAC", n.Bridge.MAC.String(), "VEMARK", plan.EndpointMark(id("a1")), "MARK", plan.NetworkMark(id("aa")),
				"VE", "dbva10000000000", "PEER", "dbpa10000000000",
			)
			m.Run("sh", "-ec", names.Replace(row.prepare))
			m.mustApply(nil, want)
			m.mustBeAsPlanned(want)
			fresh.mustApply(nil, want)
			fresh.equals(m.Snapshot())
		})
	}
}

func TestKernelHalfMadeLinksAreRemoved(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	m.Run("ip", "link", "add", "dbrcc", "address", link.BirthMAC("dbrcc").String(), "type", "bridge")
	m.Run("ip", "link", "add", "dbvcc", "address", link.BirthMAC("dbvcc").String(), "type", "veth", "peer", "name", "dbpcc")
	m.remove()
	m.equals(before)
}

func TestKernelAppliedDifferenceEqualsApplyingAnew(t *testing.T) {
	renumbered := []func(*spec.State){network("aa", "10.7.0.0/24"), endpoint("aa", "a1", "10.7.0.2/24")}
	for _, row := range []struct {
		name          string
		before, after []func(*spec.State)
	}{
		{"from nothing", nil, usual()},
		{"to nothing", usual(), nil},
		{"one endpoint more", usual()[:2], usual()[:3]},
		{"one endpoint less", usual()[:3], usual()[:2]},
		{"one network more", usual()[:3], usual()},
		{"the last network that forwards goes", usual(), usual()[3:]},
		{"another network of the same subnet", usual()[:1], []func(*spec.State){network("cc", "10.1.0.0/24", "fd00:1::/64")}},
		{"a network made anew with other subnets", usual()[:2], renumbered},
		{"a network that loses IPv6", usual()[:1], []func(*spec.State){network("aa", "10.1.0.0/24")}},
		{"a network that gains IPv6", []func(*spec.State){network("aa", "10.1.0.0/24")}, usual()[:1]},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, fresh := newMachine(t), newMachine(t)
			host := m.look()
			before, after := planFor(host, row.before...), planFor(host, row.after...)
			m.mustApply(nil, before)
			m.mustApply(before, after)
			m.mustBeAsPlanned(after)
			fresh.mustApply(nil, after)
			lab.Until(t, "the difference leads where applying anew does", func() error {
				if diff := fresh.Snapshot().Without(kept).Diff(m.Snapshot().Without(kept)); diff != "" {
					return errors.New("it differs:\n" + diff)
				}
				return nil
			})
		})
	}
}

// kept names sysctls of a bridge that stay as they were when nothing asks for them
// any more: they matter only where something does.
func kept(section, line string) bool {
	return section == "sysctls" && strings.Contains(line, "/dbraa") &&
		(strings.Contains(line, "/accept_ra ") || strings.Contains(line, "/autoconf ") || strings.Contains(line, "/accept_dad ") ||
			strings.Contains(line, "/force_forwarding "))
}

func TestKernelRemoveLeavesNothing(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	if diff := before.Diff(m.Snapshot()); !strings.Contains(diff, "eth0/forwarding = 1") {
		t.Errorf("the uplink does not forward:\n%s", diff)
	}
	m.kernel = m.open(m.memory) // another process, with what the first one remembered
	m.remove()
	m.equals(before)
	if len(m.memory) != 0 {
		t.Errorf("still remembered: %v", m.memory)
	}
	m.remove() // what is gone is gone
	m.equals(before)
}

func TestKernelForeignLinkOfOurNameIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.Run("ip", "link", "add", "dbrbb0000000000", "type", "veth", "peer", "name", "mine0")
	m.Run("ip", "link", "add", "dbva10000000000", "type", "bridge")
	m.Run("ip", "link", "set", "dbva10000000000", "alias", "mine")
	foreign := m.Run("ip", "-d", "link", "show", "dbrbb0000000000") + m.Run("ip", "-d", "link", "show", "dbva10000000000")
	for _, have := range []*plan.Plan{{}, nil} {
		err := m.apply(have, want)
		if !errors.Is(err, unix.EEXIST) {
			t.Fatalf("want an error, got %v", err)
		}
		for _, line := range []string{
			"network " + string(id("bb")) + ": link dbrbb0000000000: file exists: it is a veth link and not ours: rename it, or ip link delete dbrbb0000000000",
			"endpoint " + string(id("a1")) + `: link dbva10000000000: file exists: it is a bridge link with alias "mine" and not ours: rename it, or ip link delete dbva10000000000`,
		} {
			if !strings.Contains(names(err), line) {
				t.Errorf("want %q in\n%s", line, names(err))
			}
		}
	}
	// The others are there all the same.
	drift := m.check(want)
	if strings.Contains(drift, "dbraa") || strings.Contains(drift, "dbva2") || !strings.Contains(drift, "link dbrbb0000000000 link: want drawbridge network bb") {
		t.Errorf("drift:\n%s", drift)
	}
	m.remove()
	if got := m.Run("ip", "-d", "link", "show", "dbrbb0000000000") + m.Run("ip", "-d", "link", "show", "dbva10000000000"); got != foreign {
		t.Errorf("foreign links were changed:\n%s\n%s", foreign, got)
	}
}

func TestKernelLinkOfTheDeadMakesRoomForOneOfItsName(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.Run("sh", "-ec", `
		ip link add dbva10000000000 type veth peer name dbpa10000000000; ip link set dbva10000000000 alias 'drawbridge endpoint dead'
		ip link add dbraa0000000000 type bridge; ip link set dbraa0000000000 alias 'drawbridge network dead'`)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
}

func TestKernelPairInTheEnginesHandsIsLeftToIt(t *testing.T) {
	m, sandbox := newMachine(t), lab.NewHost(t)
	want := m.plan(append(usual(), joined("aa", "a1"))...)
	before := m.plan(usual()...)
	m.mustApply(nil, before)
	sandbox.Do(func() {
		// The engine's way: into the sandbox, renamed, up.
		m.Run("ip", "link", "set", "dbpa10000000000", "netns", namespacePath())
	})
	sandbox.Run("sh", "-ec", "ip link set dbpa10000000000 name eth0; ip link set eth0 mtu 1300 address 02:00:00:00:00:55 up")
	m.mustApply(before, want)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	if got := sandbox.Run("ip", "link", "show", "eth0"); !strings.Contains(got, "mtu 1300") || !strings.Contains(got, "02:00:00:00:00:55") {
		t.Errorf("the container's interface was changed: %s", got)
	}

	// The sandbox is gone and its end with it.
	sandbox.Run("ip", "link", "del", "eth0")
	m.mustApply(nil, want)
	if drift := m.check(want); drift != "link dbva10000000000 pair: want present, got nothing" {
		t.Errorf("drift: %s", drift)
	}
	if there, err := m.exists("dbva10000000000"); there || err != nil {
		t.Errorf("a new pair was made: %t, %v", there, err)
	}
}

func (m *machine) exists(name string) (there bool, err error) {
	m.Do(func() { there, _, err = m.kernel.Exists(name) })
	return there, err
}

func TestKernelRequestLooksAtItsOwnObjectsOnly(t *testing.T) {
	m := newMachine(t)
	before := m.plan(usual()[:2]...)
	m.mustApply(nil, before)
	m.Run("ip", "link", "set", "dbva10000000000", "nomaster")
	after := before.Next(stateOf(usual()[:2]...), stateOf(usual()[:3]...), before.Host)
	m.mustApply(before, after)
	const untouched = "link dbva10000000000 master: want dbraa0000000000, got nothing\nlink dbva10000000000 hairpin: want on, got off"
	if drift := m.check(after); drift != untouched {
		t.Errorf("the other endpoint was looked at: %s", drift)
	}
}

func stateOf(states ...func(*spec.State)) spec.State {
	var s spec.State
	for _, add := range states {
		add(&s)
	}
	return s
}

func TestKernelNetworkTooNarrowForIPv6IsMadeWithoutIt(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	want := m.plan(adjusted("aa", func(n *spec.Network) { n.MTU = 576 }, "10.1.0.0/24"), endpoint("aa", "a1", "10.1.0.2/24"))
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.mustApply(nil, want)
	m.remove()
	m.equals(before)
}

func TestKernelDeadlineIsAnErrorOfEachObject(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var err error
	m.Do(func() { err = m.kernel.Apply(ctx, nil, want) })
	if !errors.Is(err, context.Canceled) || !strings.Contains(names(err), "endpoint "+string(id("a1"))) {
		t.Errorf("%v", err)
	}
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
}

// The kernel tells when a list changed while it was being read.
func TestKernelLookingWorksWhileTheHostIsBusy(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	// More links than one answer holds: only between two answers can a list change.
	m.Run("sh", "-ec", "for n in $(seq 60); do echo link add many$n type bridge; done | ip -batch -")
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		_, _ = m.Try("sh", "-ec", `for n in $(seq 40); do ip link add busy$n type bridge; ip addr add 203.0.113.1/32 dev busy$n; ip link del busy$n; done`)
	}()
	for looks := 0; ; looks++ {
		m.mustBeAsPlanned(want)
		select {
		case <-busy:
			if looks < 10 {
				t.Errorf("only %d looks", looks)
			}
			return
		default:
		}
	}
}
