package link

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BootID names the present life of the calling thread's network namespace: the
// kernel's boot and the namespace's cookie, which no other has. What was put into
// the kernel under another BootID is gone.
func BootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	namespace, err := namespaceID()
	if err != nil {
		return "", fmt.Errorf("identify network namespace: %w", err)
	}
	return strings.TrimSpace(string(boot)) + "/" + strconv.FormatUint(namespace, 10), nil
}

// namespaceID is the cookie or, before Linux 5.14, the inode, which another
// namespace may have later.
func namespaceID() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return cookie, err
	}
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return 0, err
	}
	return s.Ino, nil
}
