package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bound reports whether a network namespace is mounted where a sandbox has its path. It
// is not either if the mount cannot be seen from here.
func Bound(sandbox string) bool {
	var kind unix.Statfs_t
	return unix.Statfs(sandbox, &kind) == nil && kind.Type == unix.NSFS_MAGIC
}

// Gateway is the default gateway of IPv4 in a network namespace; the zero Addr for none.
// The kernel tells the routes of another namespace to nobody but those within, and of
// their processes to all who see them. Where none is seen, as in a managed plugin, which
// sees itself alone, there is no answer either.
func Gateway(sandbox string) (netip.Addr, error) {
	var kind unix.Statfs_t
	var file unix.Stat_t
	if err := errors.Join(unix.Statfs(sandbox, &kind), unix.Stat(sandbox, &file)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return netip.Addr{}, nil
		}
		return netip.Addr{}, fmt.Errorf("sandbox %s: %w", sandbox, err)
	}
	if kind.Type != unix.NSFS_MAGIC {
		return netip.Addr{}, nil // the namespace is mounted where we cannot see it
	}
	namespaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list processes: %w", err)
	}
	name := fmt.Sprintf("net:[%d]", file.Ino)
	for _, ns := range namespaces {
		if target, err := os.Readlink(ns); err != nil || target != name {
			continue // a process may end at any time
		}
		gateway, err := gatewayOf(filepath.Join(ns, "../../net/route"))
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return gateway, err
		}
	}
	return netip.Addr{}, nil
}

// gatewayOf reads a table like /proc/net/route, where addresses are numbers in the
// machine's order of bytes.
func gatewayOf(table string) (netip.Addr, error) {
	f, err := os.Open(table)
	if err != nil {
		return netip.Addr{}, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		words := strings.Fields(lines.Text())
		if len(words) < 8 || words[1] != "00000000" || words[7] != "00000000" {
			continue
		}
		number, err := strconv.ParseUint(words[2], 16, 32)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%s: gateway: %w", table, err)
		}
		var gateway [4]byte // e.g. 172.30.1.1, which is 01011EAC where the order is little
		binary.NativeEndian.PutUint32(gateway[:], uint32(number))
		if number != 0 {
			return netip.AddrFrom4(gateway), nil
		}
	}
	return netip.Addr{}, lines.Err()
}
