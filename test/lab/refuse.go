package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DoWithoutNetfilter is Do as on a kernel that has no netlink for netfilter: neither
// nf_tables nor nf_conntrack_netlink. Commands that f starts meet the same kernel.
func (h *Host) DoWithoutNetfilter(f func()) {
	h.t.Helper()
	var err error
	h.Do(func() {
		if err = refuseNetfilter(); err == nil {
			f()
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// WithoutNetfilter has Drawbridge meet such a kernel from its next start on, until it is
// called with false.
func (e *Engine) WithoutNetfilter(without bool) { e.refused = without }

// refuseNetfilter has socket(2) refuse NETLINK_NETFILTER, for the calling thread and for
// what it starts, as the kernel does where nothing has registered for it.
func refuseNetfilter() error {
	// Offsets in struct seccomp_data, of the number and of the low halves of arguments.
	const number, domain, protocol = 0, 16, 32
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equals = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equals, K: unix.SYS_SOCKET, Jf: 5},
		{Code: load, K: domain},
		{Code: equals, K: unix.AF_NETLINK, Jf: 3},
		{Code: load, K: protocol},
		{Code: equals, K: unix.NETLINK_NETFILTER, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("refuse netlink for netfilter: %w", errno)
	}
	return nil
}
