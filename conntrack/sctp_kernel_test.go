package conntrack

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestKernelSCTPFollowsAPortThatChangesHands speaks by crafted packets, since the kernel
// may track SCTP and yet have no sockets of it.
func TestKernelSCTPFollowsAPortThatChangesHands(t *testing.T) {
	s := newStreet(t)
	s.small = 0 // so that filters are asked, of which the kernel knows less than of UDP
	if out, err := s.Try("sysctl", "net.netfilter.nf_conntrack_sctp_timeout_cookie_wait"); err != nil {
		t.Skipf("the kernel lacks tracking of SCTP: %v %s", err, out)
	}
	port := spec.Port{Proto: spec.SCTP, HostPort: 8080, ContainerPort: 80, Count: 1}
	for _, f := range []struct{ network, host, any string }{{"ip4:132", "192.0.2.1", "0.0.0.0"}, {"ip6:132", "2001:db8:1::1", "::"}} {
		heard := map[string]chan uint16{}
		for name, h := range s.members {
			heard[name] = s.hear(h, f.network, f.any)
		}
		var conn net.Conn
		var err error
		s.town.Outside.Do(func() { conn, err = net.Dial(f.network, f.host) })
		s.must(err)
		t.Cleanup(func() { conn.Close() })
		hail := func() { _, _ = conn.Write(initChunk(1000, port.HostPort)) }
		for i, holder := range []string{"", "a", "b", "c"} {
			during(hail, func() {
				if i > 0 {
					s.do(s.publish("a"), s.publish("b"), s.publish("c"), s.publish(holder, port))
					return
				}
				lab.Until(t, "the kernel remembers the sender", func() error { return s.someEntry(spec.SCTP, port.HostPort) })
			})
			if i > 0 && !heardOf(heard[holder], hail) {
				t.Errorf("%s: the next packets did not reach %s", f.network, holder)
			}
		}
		s.do(s.publish("c"))
	}
}

// heardOf reports whether one of the next two packets arrives.
func heardOf(arrivals chan uint16, send func()) bool {
	for len(arrivals) > 0 {
		<-arrivals
	}
	for range 2 {
		send()
		select {
		case port := <-arrivals:
			return port == 80
		case <-time.After(hello.Patience / 2):
		}
	}
	return false
}

// hear tells of what ports SCTP arrives on a machine.
func (s *street) hear(h *lab.Host, network, address string) chan uint16 {
	s.t.Helper()
	arrivals := make(chan uint16, 1000)
	var conn net.PacketConn
	var err error
	h.Do(func() { conn, err = net.ListenPacket(network, address) })
	s.must(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 2048); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 4 {
				continue
			}
			select {
			case arrivals <- binary.BigEndian.Uint16(buf[2:]):
			default: // more than anybody asks for
			}
		}
	}()
	s.t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	return arrivals
}

// initChunk is the packet that begins an association (RFC 9260, sections 3.1 and 3.3.2).
func initChunk(source, target uint16) []byte {
	packet := binary.BigEndian.AppendUint16(nil, source)
	packet = binary.BigEndian.AppendUint16(packet, target)
	packet = append(packet, 0, 0, 0, 0, 0, 0, 0, 0) // no tag yet; the checksum
	packet = append(packet, 1, 0, 0, 20)            // INIT, without flags, of 20 bytes
	for _, word := range []uint32{
		7,         // initiate tag
		65536,     // receiver window
		1<<16 | 1, // streams outwards and inwards
		1,         // the first TSN
	} {
		packet = binary.BigEndian.AppendUint32(packet, word)
	}
	sum := crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli))
	return slices.Concat(packet[:8], binary.LittleEndian.AppendUint32(nil, sum), packet[12:])
}
