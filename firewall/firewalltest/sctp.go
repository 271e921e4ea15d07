package firewalltest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// Chunks of SCTP that begin an association (RFC 9260, section 3.3).
const (
	sctpINIT    = 1
	sctpINITACK = 2
)

// sctpHeader is the length of what stands before the first chunk: ports, tag and checksum.
const sctpHeader = 12

// association is the first packet of one, or the answer to it, that carries a mark of who
// made it. The kernel of a test may have no sockets of SCTP, so both ends are made by hand.
func association(from, to netip.AddrPort, chunk byte, mark uint32) packet {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	tag := mark // of the receiver, who has chosen it in his own first packet
	if chunk == sctpINIT {
		tag = 0
	}
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0)
	b = append(b, chunk, 0, 0, 20)
	b = binary.BigEndian.AppendUint32(b, mark) // the sender's own tag
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(b[8:], sctpChecksum(b))
	return packet{from: from, to: to, proto: unix.IPPROTO_SCTP, text: string(b)}
}

// sctpChecksum is that of a whole packet (RFC 9260, appendix A).
func sctpChecksum(b []byte) uint32 {
	b = slices.Clone(b)
	clear(b[8:12])
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// parcel is a packet of SCTP that has come.
type parcel struct {
	from, to netip.AddrPort
	chunk    byte
	sound    bool // its checksum is right
}

// parcels are those among packets.
func parcels(packets [][]byte) []parcel {
	var all []parcel
	for _, p := range packets {
		header, proto := 20, p[9]
		if p[0]>>4 == 6 {
			header, proto = 40, p[6]
		}
		if proto != unix.IPPROTO_SCTP || len(p) <= header+sctpHeader {
			continue
		}
		b := p[header:]
		all = append(all, parcel{
			from:  netip.AddrPortFrom(source(p), binary.BigEndian.Uint16(b)),
			to:    netip.AddrPortFrom(target(p), binary.BigEndian.Uint16(b[2:])),
			chunk: b[sctpHeader], sound: binary.LittleEndian.Uint32(b[8:]) == sctpChecksum(b),
		})
	}
	return all
}

// publishedSCTP asks for ports, and for each of ranges, and has the answers come back.
func publishedSCTP(t *testing.T, b Backend) {
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			scene.SCTP("", 3868, 3869, 1), scene.SCTP("", 2905, 2905, 3), scene.SCTP("", 5000, 5001, 3),
			scene.SCTP("192.0.2.1", 7000, 80, 1), scene.SCTP("2001:db8:1::1", 7000, 80, 1))
	c := settle(t, b, w)
	requireTracking(t, c.Host)
	a := c.Container("a", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	for _, family := range []struct{ client, host, container string }{
		{"192.0.2.2", "192.0.2.1", "172.30.0.2"},
		{"2001:db8:1::2", "2001:db8:1::1", "fd00:30::2"},
	} {
		client, host, container := netip.MustParseAddr(family.client), netip.MustParseAddr(family.host), netip.MustParseAddr(family.container)
		for asked, led := range map[uint16]uint16{3868: 3869, 2905: 2905, 2906: 2906, 2907: 2907, 5000: 5001, 5001: 5002, 5002: 5003, 7000: 80} {
			from, to, server := netip.AddrPortFrom(client, 30000+asked), netip.AddrPortFrom(host, asked), netip.AddrPortFrom(container, led)
			t.Run(fmt.Sprint(to), func(t *testing.T) {
				c.T = t
				c.associate(c.Outside, a, association(from, to, sctpINIT, 7), parcel{from, server, sctpINIT, true})
				c.associate(a, c.Outside, association(server, from, sctpINITACK, 7), parcel{to, from, sctpINITACK, true})
			})
		}
	}
}

// requireTracking skips a test where the kernel does not track SCTP, and hence translates
// nothing of it.
func requireTracking(t *testing.T, h *lab.Host) {
	t.Helper()
	if _, err := h.Try("test", "-e", "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed"); err != nil {
		t.Skip("this kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP), so nothing of it can be translated; the rules stand all the same")
	}
}

// associate sends by a machine's eth0 to the host until it arrives elsewhere as it should,
// and as nothing else.
func (c *town) associate(sender, receiver *lab.Host, p packet, want parcel) {
	c.T.Helper()
	link := "eth0"
	if sender != c.Outside {
		link = scene.Bridge("a")
	}
	seen, via := newTap(c.T, receiver), mac(c.T, c.Host, link)
	send(c.T, sender, via, p.bytes())
	lab.Until(c.T, "a packet of SCTP", func() error {
		arrived := parcels(seen.arrived())
		for _, got := range arrived {
			if got != want {
				c.T.Fatalf("got %+v, want %+v", got, want)
			}
		}
		if len(arrived) > 0 {
			return nil
		}
		send(c.T, sender, via, p.bytes())
		return fmt.Errorf("%+v has not come", want)
	})
}
