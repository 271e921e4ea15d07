package publish

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// What the kernel's list says of a socket.
const (
	listening = "0A" // its state (TCP_LISTEN in include/net/tcp_states.h)
	nobody    = "0"  // its inode
)

// explain says more about why a place cannot be held than the kernel's error does.
func explain(at place, err error, others *holders) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &takenError{err, sync.OnceValue(func() string { return others.of(at) })}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("the host has no such address: %w", err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("this kernel has no IPv6 (is it booted with ipv6.disable=1?), publish on an address of IPv4: %w", err)
	}
	return err
}

// takenError names who has a place as soon as somebody wants to read it: whoever looks
// for a free port does not, and to find out takes long.
type takenError struct {
	err error
	by  func() string
}

func (e *takenError) Error() string {
	if by := e.by(); by != "" {
		return e.err.Error() + " by " + by
	}
	return e.err.Error()
}

func (e *takenError) Unwrap() error { return e.err }

// holders tells who holds places, by one look at the sockets of each protocol and at
// most one at all processes: it is for errors only. The zero holders looks when asked.
type holders struct {
	mu        sync.Mutex
	sockets   map[spec.Proto]map[uint16][]entry // by port, of which a range may ask for each
	processes map[string][]process              // by the inode of a socket that they have open
	looked    bool                              // at all processes, and not somebody earlier
	asked     []string                          // the inodes of those who were to be named
}

// of names who holds a place, e.g. nginx (pid 4711), or is "" if nobody is seen to.
func (h *holders) of(at place) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.listed(at.proto)[at.port] {
		// A wildcard of IPv6 may be of both families, which the list does not say.
		if s.addr != netip.IPv6Unspecified() && !spec.Meet(at.host, s.addr) {
			continue
		}
		if s.inode == nobody {
			return "a connection that was closed less than a minute ago"
		}
		return h.behind(s)
	}
	return ""
}

// listed are the sockets of a protocol on each port: those that wait for others first.
func (h *holders) listed(proto spec.Proto) map[uint16][]entry {
	if all, looked := h.sockets[proto]; looked {
		return all
	}
	if h.sockets == nil {
		h.sockets = map[spec.Proto]map[uint16][]entry{}
	}
	all := map[uint16][]entry{}
	for _, family := range []string{"", "6"} {
		for _, s := range readSockets("/proc/thread-self/net/" + proto.String() + family) {
			all[s.port] = append(all[s.port], s)
		}
	}
	for _, same := range all {
		slices.SortStableFunc(same, func(a, b entry) int { return cmp.Compare(a.rank(), b.rank()) })
	}
	h.sockets[proto] = all
	return all
}

// behind names the process that has a socket.
func (h *holders) behind(s entry) string {
	h.asked = append(h.asked, s.inode)
	known, told := h.processes[s.inode]
	all := slices.DeleteFunc(slices.Clone(known), process.ended)
	unseen := told && len(known) == 0 // as the kernel's own sockets are
	if len(all) == 0 && !unseen && !h.looked {
		h.processes, h.looked = readProcesses(), true
		all = h.processes[s.inode]
	}
	if len(all) == 0 {
		return "a socket on " + netip.AddrPortFrom(s.addr, s.port).String() + " of a process that cannot be seen from here"
	}
	return slices.MinFunc(all, func(a, b process) int { return cmp.Compare(a.rank(), b.rank()) }).String()
}

// kept are holders that need no look at all processes to say again what these have said, not
// even of a socket that none is seen to have.
func (h *holders) kept() *holders {
	h.mu.Lock()
	defer h.mu.Unlock()
	processes := map[string][]process{}
	for _, inode := range h.asked {
		processes[inode] = h.processes[inode]
	}
	return &holders{processes: processes}
}

// entry is one line of /proc/net/tcp and its like (proc_net_tcp.rst of the kernel).
type entry struct {
	addr  netip.Addr
	port  uint16
	state string // e.g. 0A, listening
	inode string // e.g. 31415
}

func (e entry) rank() int {
	switch {
	case e.state == listening:
		return 0
	case e.inode == nobody:
		return 2
	}
	return 1
}

func readSockets(path string) []entry {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []entry
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		if addr, port, ok := parseLocal(fields[1]); ok {
			all = append(all, entry{addr, port, fields[3], fields[9]})
		}
	}
	return all
}

// parseLocal reads e.g. 0100007F:1F90, which is 127.0.0.1:8080 where the machine's
// byte order is little: the kernel prints an address as numbers of 32 bits.
func parseLocal(text string) (netip.Addr, uint16, bool) {
	address, number, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	port, err := strconv.ParseUint(number, 16, 16)
	return addr.Unmap(), uint16(port), ok && err == nil
}

// hasSCTP reports whether the kernel has sockets of SCTP now. To try one would have it
// load a module, which is for the administrator to do.
func hasSCTP() bool {
	text, err := os.ReadFile("/proc/thread-self/net/protocols")
	return err == nil && listsProtocol(string(text), "SCTP")
}

// listsProtocol looks for a name in the first column.
func listsProtocol(text, name string) bool {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == name {
			return true
		}
	}
	return false
}
