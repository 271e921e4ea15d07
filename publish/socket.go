package publish

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// socket is a file descriptor that holds one place. It is bound, without
// SO_REUSEADDR, and nothing else: then nobody can bind the same, not even with
// SO_REUSEADDR, and a TCP port that nobody listens on answers with a reset.
type socket int

func (s socket) close() { _ = unix.Close(int(s)) }

// open holds a place. Every address of both families is one dual-stack socket, or
// one of IPv4 if the kernel has no IPv6.
func open(at place) (socket, error) {
	if at.host.IsValid() {
		return bind(at, at.host, at.host.Is6())
	}
	s, err := bind(at, netip.IPv6Unspecified(), false)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bind(at, netip.IPv4Unspecified(), false)
	}
	return s, err
}

// bind makes the socket of one address; only6 keeps one of IPv6 out of IPv4.
func bind(at place, addr netip.Addr, only6 bool) (socket, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if addr.Is6() {
		family = unix.AF_INET6
	}
	if at.proto == spec.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := prepare(fd, at, addr, only6); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return socket(fd), nil
}

func prepare(fd int, at place, addr netip.Addr, only6 bool) error {
	// The kernel raises it to its smallest.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVBUF", err)
	}
	if addr.Is6() {
		only := 0
		if only6 {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if err := unix.Bind(fd, sockaddr(addr, at.port)); err != nil {
		return err
	}
	if at.proto == spec.UDP {
		return deafen(fd)
	}
	return nil
}

func sockaddr(addr netip.Addr, port uint16) unix.Sockaddr {
	if addr.Is6() {
		return &unix.SockaddrInet6{Addr: addr.As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: addr.As4(), Port: int(port)}
}

// nowhere is the index of an interface that no host has: the kernel counts
// interfaces from 1.
const nowhere = math.MaxInt32

// deafen lets a bound UDP socket hear only what enters by an interface that is not
// there. Otherwise it would swallow datagrams, and their senders wait; so the
// kernel finds no socket for them and answers with an ICMP error at once. A later
// bind of the same port still fails, unless it is itself to one interface:
// inet_rcv_saddr_equal in net/ipv4/inet_connection_sock.c and udp_lib_lport_inuse
// in net/ipv4/udp.c look at the interface only where both sockets have one.
//
// It comes after bind, which would not look at sockets of other interfaces.
func deafen(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, nowhere)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return nil // before Linux 5.0: held all the same, and silent
	}
	return os.NewSyscallError("setsockopt SO_BINDTOIFINDEX", err)
}

// explain says more about why a place cannot be held than the kernel's error does.
func (p *Ports) explain(at place, err error, opened int) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		if by := takenBy(at); by != "" {
			return fmt.Errorf("%w by %s", err, by)
		}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("the host has no such address: %w", err)
	case errors.Is(err, unix.EMFILE):
		for _, held := range p.held {
			opened += len(held)
		}
		limit := unix.Rlimit{}
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
			return fmt.Errorf("%d ports held, of %d files that may be open: %w", opened, limit.Cur, err)
		}
	}
	return err
}
