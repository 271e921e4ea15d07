package firewalltest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// packet is one of IPv4 or IPv6 that is made by hand, as no honest machine would.
type packet struct {
	from, to netip.AddrPort
	proto    byte   // IPPROTO_UDP, IPPROTO_TCP or IPPROTO_SCTP
	flags    byte   // of TCP
	seq      uint32 // of TCP
	text     string // of SCTP: all behind the header of IPv4 or IPv6
}

// Flags of TCP.
const (
	tcpRST = 1 << 2
	tcpSYN = 1 << 1
	tcpACK = 1 << 4
)

// datagram is a packet of UDP, whose text is made of its addresses.
func datagram(from, to string) packet {
	return packet{from: netip.MustParseAddrPort(from), to: netip.MustParseAddrPort(to), proto: unix.IPPROTO_UDP, text: from + " to " + to}
}

// bytes is the whole packet.
func (p packet) bytes() []byte { return p.network(p.proto, 0, p.transport()) }

// fragments is the same in two parts. The first holds no more than a header of UDP.
func (p packet) fragments() [][]byte {
	const least, more = 8, 1
	whole := p.transport()
	if p.to.Addr().Is4() {
		return [][]byte{p.network(p.proto, more<<13, whole[:least]), p.network(p.proto, least/8, whole[least:])}
	}
	part := func(offset uint16, data []byte) []byte {
		header := []byte{p.proto, 0, 0, 0, 0, 0, 0, 7} // RFC 8200, section 4.5
		binary.BigEndian.PutUint16(header[2:], offset)
		return p.network(unix.IPPROTO_FRAGMENT, 0, append(header, data...))
	}
	return [][]byte{part(more, whole[:least]), part(least, whole[least:])}
}

// network is the header of IPv4 or IPv6 and what is behind it.
func (p packet) network(proto byte, fragment uint16, data []byte) []byte {
	if p.to.Addr().Is6() {
		b := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
		binary.BigEndian.PutUint16(b[4:], uint16(len(data)))
		return slices.Concat(b, p.from.Addr().AsSlice(), p.to.Addr().AsSlice(), data)
	}
	b := []byte{0x45, 0, 0, 0, 0, 7, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(data)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b = slices.Concat(b, p.from.Addr().AsSlice(), p.to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, data...)
}

// transport is the header of UDP or TCP and the text.
func (p packet) transport() []byte {
	if p.proto == unix.IPPROTO_SCTP {
		return []byte(p.text) // has a checksum of its own
	}
	b := binary.BigEndian.AppendUint16(nil, p.from.Port())
	b = binary.BigEndian.AppendUint16(b, p.to.Port())
	sum := 6 // where the checksum is
	if p.proto == unix.IPPROTO_TCP {
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = append(b, 0, 0, 0, 1, 5<<4, p.flags, 0xff, 0xff, 0, 0, 0, 0)
		sum = 16
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.text)))
		b = append(b, 0, 0)
	}
	b = append(b, p.text...)
	pseudo := slices.Concat(p.from.Addr().AsSlice(), p.to.Addr().AsSlice(), []byte{0, p.proto}, binary.BigEndian.AppendUint16(nil, uint16(len(b))))
	binary.BigEndian.PutUint16(b[sum:], checksum(append(pseudo, b...)))
	return b
}

// checksum is that of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// broadcast is the MAC of everybody.
func broadcast() net.HardwareAddr { return net.HardwareAddr{255, 255, 255, 255, 255, 255} }

// mac is that of a machine's interface.
func mac(t testing.TB, h *lab.Host, link string) net.HardwareAddr {
	t.Helper()
	return device(t, h, link).HardwareAddr
}

func device(t testing.TB, h *lab.Host, link string) *net.Interface {
	t.Helper()
	var found *net.Interface
	var err error
	h.Do(func() { found, err = net.InterfaceByName(link) })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// send puts packets on the wire by a machine's eth0, whatever it has for routes.
func send(t testing.TB, h *lab.Host, to net.HardwareAddr, packets ...[]byte) {
	t.Helper()
	for _, p := range packets {
		protocol := uint16(unix.ETH_P_IP)
		if p[0]>>4 == 6 {
			protocol = unix.ETH_P_IPV6
		}
		sendFrame(t, h, to, protocol, p)
	}
}

// sendTagged is send, in frames of priority and no VLAN (IEEE 802.1Q): whoever gets one
// takes it as if it had no tag.
func sendTagged(t testing.TB, h *lab.Host, to net.HardwareAddr, ipv4 []byte) {
	t.Helper()
	sendFrame(t, h, to, unix.ETH_P_8021Q, append([]byte{0, 0, unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}, ipv4...))
}

func sendFrame(t testing.TB, h *lab.Host, to net.HardwareAddr, protocol uint16, data []byte) {
	t.Helper()
	at := &unix.SockaddrLinklayer{Protocol: bigEndian(protocol), Ifindex: device(t, h, "eth0").Index, Halen: uint8(len(to))}
	copy(at.Addr[:], to)
	var err error
	h.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = errors.Join(unix.Sendto(fd, data, 0, at), unix.Close(fd))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// bigEndian is a number as the kernel takes it in network order.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// tap copies what comes to a machine by its eth0.
type tap struct {
	t  testing.TB
	fd int
}

func newTap(t testing.TB, h *lab.Host) tap {
	t.Helper()
	p := tap{t: t}
	var err error
	at := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: device(t, h, "eth0").Index}
	h.Do(func() {
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
			err = unix.Bind(p.fd, at)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	return p
}

// arrived are the packets of IPv4 and IPv6 since it was asked last, up to as many as the
// kernel has kept, which are some hundred.
func (p tap) arrived() [][]byte {
	p.t.Helper()
	var all [][]byte
	for {
		b := make([]byte, 1<<16)
		n, from, err := unix.Recvfrom(p.fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return all
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			p.t.Fatal(err)
		}
		if at := from.(*unix.SockaddrLinklayer); at.Pkttype != unix.PACKET_OUTGOING && n > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6) {
			all = append(all, b[:n])
		}
	}
}

// source is whom a packet says that it is from.
func source(p []byte) netip.Addr {
	if p[0]>>4 == 6 {
		return netip.AddrFrom16([16]byte(p[8:24]))
	}
	return netip.AddrFrom4([4]byte(p[12:16]))
}

// target is whom it says that it is for.
func target(p []byte) netip.Addr {
	if p[0]>>4 == 6 {
		return netip.AddrFrom16([16]byte(p[24:40]))
	}
	return netip.AddrFrom4([4]byte(p[16:20]))
}

// segment is what a packet says of itself if it is of TCP.
func segment(p []byte) (from, to netip.AddrPort, seq uint32, ok bool) {
	header, proto := 20, p[9]
	if p[0]>>4 == 6 {
		header, proto = 40, p[6]
	}
	if proto != unix.IPPROTO_TCP || len(p) < header+20 {
		return from, to, 0, false
	}
	b := p[header:]
	return netip.AddrPortFrom(source(p), binary.BigEndian.Uint16(b)), netip.AddrPortFrom(target(p), binary.BigEndian.Uint16(b[2:])), binary.BigEndian.Uint32(b[4:]), true
}

// tell sends a datagram by a socket.
func tell(t testing.TB, h *lab.Host, to, text string) {
	t.Helper()
	var err error
	h.Do(func() {
		var conn net.Conn
		if conn, err = net.Dial("udp", to); err == nil {
			_, err = conn.Write([]byte(text))
			err = errors.Join(err, conn.Close())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// inbox keeps the texts of all datagrams that a machine is sent at a port.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func newInbox(t testing.TB, h *lab.Host, at string) *inbox {
	t.Helper()
	var conn net.PacketConn
	var err error
	h.Do(func() { conn, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", at) })
	if err != nil {
		t.Fatal(err)
	}
	b := &inbox{}
	var reading sync.WaitGroup
	reading.Go(func() { b.read(conn) })
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return b
}

func (b *inbox) read(conn net.PacketConn) {
	data := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(data)
		if err != nil {
			return // closed
		}
		b.mu.Lock()
		b.got = append(b.got, string(data[:n]))
		b.mu.Unlock()
	}
}

func (b *inbox) texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// nothingBut sends a datagram that must arrive, until it does, and then no other may have.
// What came before it would be there by then.
func (b *inbox) nothingBut(t testing.TB, text string, from *lab.Host, to string) {
	t.Helper()
	lab.Until(t, "a datagram", func() error {
		if slices.Contains(b.texts(), text) {
			return nil
		}
		tell(t, from, to, text)
		return fmt.Errorf("%q has not come", text)
	})
	for _, other := range b.texts() {
		if other != text {
			t.Errorf("%q has arrived", other)
		}
	}
}
