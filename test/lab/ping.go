package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Types of ICMP messages that ask for an echo (RFC 792, RFC 4443).
const (
	echo4 = 8
	echo6 = 128
)

// MustPing fails the test unless the address answers ping.
func (h *Host) MustPing(address string) {
	h.t.Helper()
	if err := h.Ping(netip.MustParseAddr(address), hello.Patience); err != nil {
		h.t.Fatalf("%s: ping %s: want an answer: %v", h.name, address, err)
	}
}

// MustNotPing fails the test if the address answers ping, or anybody for it.
func (h *Host) MustNotPing(address string) {
	h.t.Helper()
	if err := h.Ping(netip.MustParseAddr(address), hello.Impatience); !errors.Is(err, unix.EAGAIN) {
		h.t.Fatalf("%s: ping %s: want silence, got %v", h.name, address, err)
	}
}

// Ping asks by a socket for which the kernel does the rest, so that no program is needed.
func (h *Host) Ping(address netip.Addr, wait time.Duration) (err error) {
	h.t.Helper()
	h.Set("net/ipv4/ping_group_range", "0 0")
	h.Do(func() { err = ping(address, wait) })
	return err
}

func ping(to netip.Addr, wait time.Duration) error {
	family, protocol, kind := unix.AF_INET6, unix.IPPROTO_ICMPV6, byte(echo6)
	sockaddr := unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16()})
	if to.Is4() {
		family, protocol, kind = unix.AF_INET, unix.IPPROTO_ICMP, echo4
		sockaddr = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("socket for ping: %w", err)
	}
	defer unix.Close(fd)
	// Once a second, as ping does: a busy machine may lose one.
	for deadline := time.Now().Add(wait); ; {
		if err := unix.Sendto(fd, []byte{kind, 0, 0, 0, 0, 0, 0, 1}, 0, sockaddr); err != nil {
			return err
		}
		left := time.Until(deadline)
		if err := await(fd, time.Now().Add(min(left, time.Second))); left <= time.Second || !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
}

// await waits for an answer, and goes on where a signal of Go's own ended the wait: with
// a timeout set the kernel does not (signal(7)).
func await(fd int, deadline time.Time) error {
	for {
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return err
		}
		if _, _, err := unix.Recvfrom(fd, make([]byte, 64), 0); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
