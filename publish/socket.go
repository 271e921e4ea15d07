package publish

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
)

// serves reports whether anybody is served at all.
func serves(r proxy.Route) bool { return r.V4.To.IsValid() || r.V6.To.IsValid() }

// socket is a file descriptor that holds one place. One of TCP listens, with
// SO_REUSEADDR: then nobody else can bind the same, not even with that option
// (inet_csk_bind_conflict in net/ipv4/inet_connection_sock.c), while connections that
// were closed less than a minute ago are not in the way. One of UDP is bound without:
// there it would let others share the port. So it is with SCTP, which listens too.
type socket struct {
	fd       int
	route    proxy.Route
	planned  bool // by the last Apply about its owner
	reserved int  // how many keep it, planned or not
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// open holds a place. Every address of both families is one dual-stack socket, or
// one of IPv4 if the kernel has no IPv6.
func open(at place, r proxy.Route) (*socket, error) {
	if at.host.IsValid() {
		return bind(at, at.host, r)
	}
	s, err := bind(at, netip.IPv6Unspecified(), r)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bind(at, netip.IPv4Unspecified(), r)
	}
	return s, err
}

// bind makes the socket of one address.
func bind(at place, addr netip.Addr, r proxy.Route) (*socket, error) {
	family, kind, protocol := unix.AF_INET, unix.SOCK_STREAM, 0
	if addr.Is6() {
		family = unix.AF_INET6
	}
	switch at.proto {
	case spec.UDP:
		kind = unix.SOCK_DGRAM
	case spec.SCTP:
		protocol = unix.IPPROTO_SCTP
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd}
	if err := s.prepare(at, addr, r); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare binds a new socket. Its filter stands before anything can be sent to it. What
// bind and listen say is the kernel's own error: others may have bound the port in
// between, and whoever listens first has it.
func (s *socket) prepare(at place, addr netip.Addr, r proxy.Route) error {
	if addr.Is6() {
		if err := s.set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, flag(at.host.IsValid())); err != nil {
			return fmt.Errorf("setsockopt IPV6_V6ONLY: %w", err)
		}
	}
	if at.proto == spec.TCP {
		if err := s.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return fmt.Errorf("setsockopt SO_REUSEADDR: %w", err)
		}
	}
	if !serves(r) {
		if err := s.shrink(); err != nil {
			return err
		}
	}
	if err := s.filter(r); err != nil {
		return err
	}
	if err := unix.Bind(s.fd, sockaddr(addr, at.port)); err != nil || at.proto == spec.UDP {
		return err
	}
	return unix.Listen(s.fd, unix.SOMAXCONN)
}

func (s *socket) set(level, option, value int) error {
	return unix.SetsockoptInt(s.fd, level, option, value)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

func sockaddr(addr netip.Addr, port uint16) unix.Sockaddr {
	if addr.Is6() {
		return &unix.SockaddrInet6{Addr: addr.As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: addr.As4(), Port: int(port)}
}

// shrink gives a socket that serves nobody the smallest buffers, to which the kernel
// raises a size of 1.
func (s *socket) shrink() error {
	return errors.Join(s.set(unix.SOL_SOCKET, unix.SO_RCVBUF, 1), s.set(unix.SOL_SOCKET, unix.SO_SNDBUF, 1))
}

// grow gives it those that any socket begins with. Connections of TCP have theirs from
// the one that listens, and may tune them as far as nobody has chosen a size: that is
// forgotten by SO_BUF_LOCK, from Linux 5.15 on.
func (s *socket) grow(proto spec.Proto) error {
	if serves(s.route) {
		return nil
	}
	kind := unix.SOCK_STREAM
	if proto == spec.UDP {
		kind = unix.SOCK_DGRAM
	}
	fresh, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fresh)
	for _, buffer := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		size, err := unix.GetsockoptInt(fresh, unix.SOL_SOCKET, buffer)
		if err == nil {
			err = s.set(unix.SOL_SOCKET, buffer, size/2) // the kernel doubles it (socket(7))
		}
		if err != nil {
			return fmt.Errorf("default size of buffers: %w", err)
		}
	}
	if err := s.set(unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("setsockopt SO_BUF_LOCK: %w", err)
	}
	return nil
}
