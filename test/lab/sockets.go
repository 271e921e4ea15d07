package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Numbers of linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily = 20
	stateClose       = 7  // a UDP socket that is not connected
	stateListen      = 10 // a TCP socket that listens
	stateBound       = 13 // a TCP socket that is bound and does nothing (kernel 6.8 and later)

	diagRequestLen = 56 // struct inet_diag_req_v2
	diagMessageLen = 72 // struct inet_diag_msg
)

// Sockets lists what holds a port: listening, bound and unconnected sockets.
// ss of Debian 12 cannot see sockets that are bound only, so this asks the
// kernel itself.
func (h *Host) Sockets() []string {
	h.t.Helper()
	var lines []string
	var err error
	h.Do(func() { lines, err = listSockets() })
	if err != nil {
		h.t.Fatalf("list sockets of %s: %v", h.name, err)
	}
	return lines
}

func listSockets() ([]string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var lines []string
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			found, err := dumpSockets(fd, family, protocol)
			if err != nil {
				return nil, err
			}
			lines = append(lines, found...)
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func dumpSockets(fd int, family, protocol byte) ([]string, error) {
	states := uint32(1<<stateListen | 1<<stateBound)
	if protocol == unix.IPPROTO_UDP {
		states = 1 << stateClose
	}
	request := make([]byte, unix.NLMSG_HDRLEN+diagRequestLen)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[unix.NLMSG_HDRLEN] = family
	request[unix.NLMSG_HDRLEN+1] = protocol
	binary.NativeEndian.PutUint32(request[unix.NLMSG_HDRLEN+4:], states)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for sockets: %w", err)
	}

	var lines []string
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		found, done, err := parseSockets(buf[:n], protocol)
		if err != nil {
			return nil, err
		}
		lines = append(lines, found...)
		if done {
			return lines, nil
		}
	}
}

// parseSockets reads the messages of one datagram and reports whether the last
// of them ends the dump.
func parseSockets(messages []byte, protocol byte) (lines []string, done bool, err error) {
	for len(messages) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(messages))
		if length < unix.NLMSG_HDRLEN || length > len(messages) {
			return nil, false, fmt.Errorf("read sockets: message of %d bytes in %d", length, len(messages))
		}
		body := messages[unix.NLMSG_HDRLEN:length]
		switch kind := binary.NativeEndian.Uint16(messages[4:]); {
		case kind == unix.NLMSG_DONE:
			return lines, true, nil
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			return nil, false, fmt.Errorf("read sockets: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(body))))
		case kind == sockDiagByFamily && len(body) >= diagMessageLen:
			lines = append(lines, socketLine(body, protocol))
		}
		messages = messages[min(len(messages), (length+3)&^3):]
	}
	return lines, false, nil
}

// socketLine renders a struct inet_diag_msg: family and state, then ports and
// addresses in network order.
func socketLine(m []byte, protocol byte) string {
	addr := netip.AddrFrom16([16]byte(m[8:24]))
	if m[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	}
	name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
	state := map[byte]string{stateListen: "listens", stateBound: "bound", stateClose: "bound"}[m[1]]
	return fmt.Sprintf("%s %s %s", name, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])), state)
}
