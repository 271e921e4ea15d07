package proxy_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// Whoever asks a published port in the name of another one, or of the same, would have
// the echo of one container answer that of another forever.
func TestKernelProxyUDPNeverAnswersItself(t *testing.T) {
	for _, row := range []struct {
		promise  string
		from, to string
		route    func(*bench) proxy.Route
	}{
		{"a port that is asked in its own name", port8080(linkLocal(1)), port8080(linkLocal(1)), near},
		{"two ports", "[" + linkLocal(1) + "]:8081", port8080(linkLocal(1)), near},
		{"a global address of a container that has IPv4 alone", "[2001:db8:1::1]:8081", "[2001:db8:1::1]:8080", only4},
		{"two global addresses", "[2001:db8:1::77]:8081", "[2001:db8:1::1]:8080", only4},
		{"IPv4 without a firewall", "192.0.2.1:8081", "192.0.2.1:8080", (*bench).all},
		{"IPv4, a port that is asked in its own name", "192.0.2.1:8080", "192.0.2.1:8080", (*bench).all},
	} {
		t.Run(row.promise, func(t *testing.T) {
			b := newBench(t, proxy.Options{})
			b.Host.Run("ip", "addr", "add", "2001:db8:1::77/64", "dev", "eth0", "nodad", "preferred_lft", "0")
			b.Host.Set("net/ipv4/conf/eth0/accept_local", "1") // else the kernel takes none of IPv4
			for _, at := range []string{"[::]:8080", "[::]:8081"} {
				b.serve("udp", at, row.route(b))
			}
			heard := &atomic.Int64{}
			b.echoIf(func(data string, _ net.Addr) bool {
				if data == forged {
					heard.Add(1)
				}
				return true
			})
			b.forge(b.Outside, "eth0", netip.MustParseAddrPort(row.from), netip.MustParseAddrPort(row.to))
			lab.Until(t, "the container hears", func() error {
				if heard.Load() == 0 {
					return errors.New("nothing")
				}
				return nil
			})
			client := b.speak(b.Host, "[::1]:8080")
			for range 50 {
				mustEcho(t, client, []byte("of a client"))
			}
			if n := heard.Load(); n != 1 {
				t.Errorf("one datagram came to the container as %d", n)
			}
		})
	}
}

// near serves whom the kernel does not translate for.
func near(b *bench) proxy.Route { return proxy.Route{V6: plan.Proxy{To: b.container.Addr6}} }

// only4 is the route of a container without IPv6.
func only4(b *bench) proxy.Route { return proxy.Route{V6: plan.Proxy{To: b.container.Addr, All: true}} }

// forged is what forge says.
const forged = "forgery!"

// forge has a machine on a link of the host's send it a datagram in somebody's name.
func (b *bench) forge(by *lab.Host, link string, from, to netip.AddrPort) {
	b.Helper()
	packet, protocol := datagram(from, to)
	by.Do(func() {
		out, err := net.InterfaceByName(link)
		if err != nil {
			b.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		at := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: out.Index, Halen: 6}
		copy(at.Addr[:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) // everybody
		if err := unix.Sendto(fd, packet, 0, at); err != nil {
			b.Fatal(err)
		}
	})
}

// datagram writes a packet of UDP with its IP header, and what that is to a link.
func datagram(from, to netip.AddrPort) (packet []byte, protocol uint16) {
	ends := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = append(udp, 0, byte(8+len(forged)), 0, 0)
	udp = append(udp, forged...)
	pseudo := append(append([]byte{0, unix.IPPROTO_UDP, 0, byte(len(udp))}, ends...), udp...)
	binary.BigEndian.PutUint16(udp[6:], checksum(pseudo))
	if from.Addr().Is4() {
		ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, ends...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(ip, udp...), swapped(unix.ETH_P_IP)
	}
	ip := append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, ends...)
	return append(ip, udp...), swapped(unix.ETH_P_IPV6)
}

// swapped has the bytes of a number as the network has them.
func swapped(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
