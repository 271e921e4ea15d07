package firewalltest

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

const (
	whyLoopback     = "nobody else speaks for the loopback"
	whyUnpublished  = "not published"
	whyUntranslated = "would leave untranslated"
)

// marker is what may arrive.
const marker = "an honest datagram"

// craftedDatagrams sends one datagram each, by which alone a service may be told what to
// do, to where nobody may get.
func craftedDatagrams(t *testing.T, b Backend) {
	c := newTown(t, b)
	// As somebody may have set it who publishes ports of an engine's on 127.0.0.1.
	c.Host.Set("net/ipv4/conf/docker0/route_localnet", "1")
	c.Host.Set("net/ipv4/conf/eth0/route_localnet", "1")
	inboxes := map[string]*inbox{
		"127.0.0.1:53":  newInbox(t, c.Host, "127.0.0.1:53"),
		"172.30.0.2:82": newInbox(t, c.a1, "[::]:82"),
		"172.30.2.2:82": newInbox(t, c.i1, "[::]:82"),
	}
	uplink, bridge, docker := mac(t, c.Host, "eth0"), mac(t, c.Host, scene.Bridge("a")), mac(t, c.Host, "docker0")
	for _, row := range []struct {
		sender   *lab.Host
		via      net.HardwareAddr
		from, to string
		why      string // "" where the kernel itself drops
	}{
		{c.Neighbour, uplink, "192.0.2.3:5353", "127.0.0.1:53", whyLoopback},
		{c.Neighbour, uplink, "192.0.2.3:5353", "127.0.0.1:7082", whyLoopback},
		{c.Neighbour, uplink, "192.0.2.3:5353", "127.1.2.3:8082", whyLoopback},
		{c.Neighbour, uplink, "127.0.0.1:5353", "192.0.2.1:8082", whyLoopback},
		{c.Neighbour, uplink, "127.0.0.1:5353", "127.0.0.1:53", whyLoopback},
		{c.Neighbour, uplink, "[2001:db8:1::3]:5353", "[::1]:8082", ""},
		{c.a2, bridge, "172.30.0.3:5353", "127.0.0.1:53", whyLoopback},
		{c.a2, bridge, "172.30.0.3:5353", "127.0.0.1:7082", whyLoopback},
		{c.a2, bridge, "127.0.0.1:5353", "172.30.0.1:8082", whyLoopback},
		{c.a2, bridge, "[fd00:30::3]:5353", "[::1]:8082", ""},
		{c.docker, docker, "172.17.0.2:5353", "127.0.0.1:53", whyLoopback},
		{c.docker, docker, "172.17.0.2:5353", "127.0.0.1:7082", whyLoopback},
		{c.Neighbour, uplink, "192.0.2.3:5353", "172.30.0.2:82", whyUnpublished},
		{c.Neighbour, uplink, "172.30.0.3:5353", "172.30.0.2:82", whyUnpublished}, // as if from a peer
		{c.Neighbour, uplink, "[2001:db8:1::3]:5353", "[fd00:30::2]:82", whyUnpublished},
		{c.Neighbour, uplink, "[fd00:30::3]:5353", "[fd00:30::2]:82", whyUnpublished},
		{c.b1, mac(t, c.Host, scene.Bridge("b")), "172.30.1.2:5353", "172.30.0.2:82", whyUnpublished},
		{c.docker, docker, "172.17.0.2:5353", "172.30.0.2:82", whyUnpublished},
		{c.Neighbour, uplink, "192.0.2.3:5353", "172.30.2.2:82", "nothing enters an internal network"},
	} {
		p := datagram(row.from, row.to)
		t.Run(p.text, func(t *testing.T) {
			c.T = t
			for _, parts := range [][][]byte{{p.bytes()}, p.fragments()} {
				say := func() { send(t, row.sender, row.via, parts...) }
				if row.why == "" {
					say()
				} else {
					c.dropped(row.why, say)
				}
			}
		})
	}
	for at, in := range inboxes {
		in.nothingBut(t, marker, c.Host, at)
	}
}

// craftedFrames sends to a peer what no kernel would send like that.
func craftedFrames(t *testing.T, b Backend) {
	b.keepingApart(t, func(t *testing.T, value string) {
		c := newHamlet(t, b, adopted(spec.Network{}))
		c.Bridged(value)
		in, other := newInbox(t, c.a1, "[::]:82"), newInbox(t, c.b1, "[::]:82")
		gateway, peer := mac(t, c.Host, scene.Bridge("a")), mac(t, c.a1, "eth0")
		for _, row := range []struct {
			via      net.HardwareAddr
			from, to string
			why      string
		}{
			{peer, "172.30.0.3:5353", "172.30.0.2:82", whyApart},
			{gateway, "172.30.0.3:5353", "172.30.0.2:82", whyApart},
			{gateway, "192.0.2.3:5353", "172.30.0.2:82", whyApart},
			{broadcast(), "172.30.0.3:5353", "172.30.0.2:82", whyApart},
			{broadcast(), "172.30.0.3:5353", "172.30.0.255:82", whyApart},
			{net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, "172.30.0.3:5353", "224.0.0.1:82", whyApart},
			{peer, "[fd00:30::3]:5353", "[fd00:30::2]:82", whyApart},
			{gateway, "[fd00:30::3]:5353", "[fd00:30::2]:82", whyApart},
			{broadcast(), "[fd00:30::3]:5353", "[fd00:30::2]:82", whyApart},
			{net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, "[fd00:30::3]:5353", "[ff02::1]:82", whyApart},
			{gateway, "172.30.0.3:5353", "172.30.1.2:82", whyUnpublished},
			{gateway, "[fd00:30::3]:5353", "[fd00:31::2]:82", whyUnpublished},
		} {
			p := datagram(row.from, row.to)
			t.Run(p.text+" by "+row.via.String(), func(t *testing.T) {
				c.T = t
				c.dropped(row.why, func() { send(t, c.a2, row.via, p.bytes()) })
				c.dropped(row.why, func() { send(t, c.a2, row.via, p.fragments()...) })
			})
		}
		c.T = t
		if !b.NeedsBridged { // a tagged frame is not shown to iptables
			p := datagram("172.30.0.3:5353", "172.30.0.2:82")
			c.dropped(whyApart, func() { sendTagged(t, c.a2, peer, p.bytes()) })
		}
		in.nothingBut(t, marker, c.Host, "172.30.0.2:82")
		other.nothingBut(t, marker, c.Host, "172.30.1.2:82")
	})
}

// nothingLeavesUntranslated sends segments that belong to no connection, or are not where
// one is, and hence would pass by the translation.
func nothingLeavesUntranslated(t *testing.T, b Backend) {
	c := newTown(t, b)
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
	seen := newTap(t, c.Outside)
	gateway := mac(t, c.Host, scene.Bridge("a"))
	stray := func(sender *lab.Host, from, to netip.AddrPort, flags byte, seq uint32) {
		t.Helper()
		p := packet{from: from, to: to, proto: unix.IPPROTO_TCP, flags: flags, seq: seq}
		c.dropped(whyUntranslated, func() { send(t, sender, gateway, p.bytes()) })
	}
	for _, at := range []struct{ client, outside, published, server string }{
		{"172.30.0.3:4567", lab.Internet + ":80", "192.0.2.1:8080", "172.30.0.2:80"},
		{"[fd00:30::3]:4567", "[" + lab.Internet6 + "]:80", "[2001:db8:1::1]:8080", "[fd00:30::2]:80"},
	} {
		outside := netip.MustParseAddrPort(at.outside)
		for _, flags := range []byte{0, tcpRST, tcpSYN | tcpACK} {
			stray(c.a2, netip.MustParseAddrPort(at.client), outside, flags, 1)
		}
		out, in := c.a2.Dial("tcp", at.outside), c.Outside.Dial("tcp", at.published)
		ask := func() {
			t.Helper()
			for _, conn := range []*hello.Conn{out, in} {
				if _, err := conn.Ask(hello.Patience); err != nil {
					t.Fatal(err)
				}
			}
		}
		ask()
		sequences := map[uint16]uint32{} // by the port outside
		for _, p := range seen.arrived() {
			if from, to, seq, ok := segment(p); ok && from.Addr() != to.Addr() {
				sequences[to.Port()] = seq
			}
		}
		const beyond = 1 << 30 // every window
		stray(c.a2, out.LocalAddr(), outside, tcpACK, sequences[80]+beyond)
		stray(c.a2, out.LocalAddr(), outside, tcpRST, sequences[80]+beyond)
		stray(c.a1, netip.MustParseAddrPort(at.server), in.LocalAddr(), tcpACK, sequences[in.LocalAddr().Port()]+beyond)
		ask()
		for _, p := range seen.arrived() {
			if from := source(p); from.IsPrivate() {
				t.Errorf("a packet from %s has left", from)
			}
		}
	}
}

// anotherWayBack has a container of mode routed answer what has come to it by another
// router.
func anotherWayBack(t *testing.T, b Backend) {
	c := newCounty(t, b)
	seen := newTap(t, c.Outside)
	via := mac(t, c.Host, scene.Bridge("3"))
	for from, to := range map[string]string{"172.30.3.2:90": "192.0.2.2:4567", "[fd00:30:3::2]:90": "[2001:db8:1::2]:4567"} {
		answer := packet{from: netip.MustParseAddrPort(from), to: netip.MustParseAddrPort(to), proto: unix.IPPROTO_TCP, flags: tcpSYN | tcpACK}
		lab.Until(t, "an answer", func() error {
			send(t, c.lands[2].container, via, answer.bytes())
			for _, p := range seen.arrived() {
				if got, _, _, ok := segment(p); ok && got == answer.from {
					return nil
				}
			}
			return errors.New("has not come")
		})
	}
}
