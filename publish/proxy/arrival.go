package proxy

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// tellLocal asks the kernel to say with each datagram which address it was sent to.
// A socket of both families says and takes IPv4 addresses as mapped ones, by the
// options of IPv6.
func tellLocal(fd int, is4 bool) error {
	if is4 {
		return os.NewSyscallError("setsockopt IP_PKTINFO", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	}
	return os.NewSyscallError("setsockopt IPV6_RECVPKTINFO", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
}

// arrival reads of control messages which address a datagram was sent to, and the
// interface that it came in by.
func arrival(control []byte) (local netip.Addr, ifindex int) {
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo of ip(7): interface, local address, address in the header
			return netip.AddrFrom4([4]byte(data[8:12])), int(binary.NativeEndian.Uint32(data))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			// struct in6_pktinfo of ipv6(7): address in the header, interface
			return netip.AddrFrom16([16]byte(data)).Unmap(), int(binary.NativeEndian.Uint32(data[16:]))
		}
		control = rest
	}
	return netip.Addr{}, 0
}

// answer says to whom, and by which control message from where, a session is
// answered. The interface is prescribed only if either address is link-local: for others
// the way back need not be the way that a datagram came.
func (t talk) answer(is4 bool) (to unix.Sockaddr, from []byte) {
	port := int(t.client.Port())
	if is4 {
		return &unix.SockaddrInet4{Port: port, Addr: t.client.Addr().As4()},
			unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: t.local.As4()})
	}
	return &unix.SockaddrInet6{Port: port, Addr: t.client.Addr().As16(), ZoneId: uint32(t.ifindex)},
		unix.PktInfo6(&unix.Inet6Pktinfo{Addr: t.local.As16(), Ifindex: uint32(t.ifindex)})
}
