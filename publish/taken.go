package publish

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/spec"
)

// timeWait is the state of a connection that was closed less than a minute ago
// (TCP_TIME_WAIT in include/net/tcp_states.h). It has no process any more.
const timeWait = "06"

// takenBy names who holds a place, e.g. nginx (pid 4711), or is "" if that cannot
// be known. It looks through all processes, so it is for errors only.
func takenBy(at place) string {
	for _, family := range []string{"", "6"} {
		for _, s := range listed("/proc/thread-self/net/" + at.proto.String() + family) {
			if s.port != at.port || !meet(at.host, s.addr) {
				continue
			}
			if at.proto == spec.TCP && s.state == timeWait {
				return "a connection that was closed less than a minute ago"
			}
			if name := process(s.inode); name != "" {
				return name
			}
		}
	}
	return ""
}

// meet reports whether a socket at addr can stand in the way of one at host. A
// wildcard of IPv6 may be of both families, which the kernel's list does not say.
func meet(host, addr netip.Addr) bool {
	switch {
	case !host.IsValid() || host == addr || addr == netip.IPv6Unspecified():
		return true
	case host.Is4() != addr.Is4():
		return false
	}
	return host.IsUnspecified() || addr.IsUnspecified()
}

// entry is one line of /proc/net/tcp and its like (proc_net_tcp.rst of the kernel).
type entry struct {
	addr  netip.Addr
	port  uint16
	state string // e.g. 0A, listening
	inode string // "0" if no process has it
}

func listed(path string) []entry {
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

// process finds who has a socket open.
func process(inode string) string {
	if inode == "0" {
		return ""
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(file))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return ""
}
