// Command confine runs a command within the system calls that a service manager's unit would
// leave to it. It is stricter than one: what is outside does not fail but ends whoever calls
// it with SIGSYS, so that nobody passes over it in silence. It makes no mounts and takes
// away no capabilities.
//
//	confine -calls 0,1,2 -families 1,2,16 COMMAND ARGUMENT…
//
// Both lists are numbers. Besides, no namespace is made or entered, no memory is writable
// and executable, no personality changed, no real-time scheduling asked for, and no mode set
// that changes users or groups.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "confine:", err)
		os.Exit(2)
	}
}

func run(args []string) error {
	if len(args) < 5 || args[0] != "-calls" || args[2] != "-families" {
		return fmt.Errorf("usage: confine -calls NUMBERS -families NUMBERS COMMAND ARGUMENT…")
	}
	calls, err := numbers(args[1])
	if err != nil {
		return err
	}
	families, err := numbers(args[3])
	if err != nil {
		return err
	}
	command, err := exec.LookPath(args[4])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the thread that is confined becomes the command
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // who is ended leaves none
		return fmt.Errorf("no cores: %w", err)
	}
	for _, f := range append(details(families), only(calls)) {
		if err := f.install(); err != nil {
			return err
		}
	}
	return syscall.Exec(command, args[4:], os.Environ()) //nolint:gosec // that is what it is for
}

func numbers(list string) ([]uint32, error) {
	var all []uint32
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, uint32(n))
	}
	return all, nil
}

// filter is a program of classic BPF over struct seccomp_data (linux/seccomp.h).
type filter []unix.SockFilter

// Where that has what is asked for. Of an argument the lower half is read: flags, modes and
// families are ints.
const (
	atCall = 0
	atArch = 4
	atArgs = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func argument(n uint32) unix.SockFilter { return load(atArgs + 8*n) }

func mask(bits uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: bits}
}

// ifEqual skips one instruction if what is loaded is not the value.
func ifEqual(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: 1}
}

// skipIf skips one instruction if it is.
func skipIf(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: 1}
}

func verdict(v uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
}

var (
	pass = verdict(unix.SECCOMP_RET_ALLOW)        //nolint:gochecknoglobals // constants that Go has no words for
	end  = verdict(unix.SECCOMP_RET_KILL_PROCESS) //nolint:gochecknoglobals // the same
)

// only lets these calls pass, of this architecture.
func only(calls []uint32) filter {
	arch := uint32(unix.AUDIT_ARCH_X86_64)
	if runtime.GOARCH == "arm64" {
		arch = unix.AUDIT_ARCH_AARCH64
	}
	f := filter{load(atArch), skipIf(arch), end, load(atCall)}
	for _, c := range calls {
		f = append(f, ifEqual(c), pass)
	}
	return append(f, end)
}

// of has the filter judge a call and no other.
func of(call uint32, judge ...unix.SockFilter) filter {
	return append(filter{load(atCall), skipIf(call), pass}, judge...)
}

// within ends a call whose argument is none of these values.
func within(call, arg uint32, values []uint32) filter {
	f := of(call, argument(arg))
	for _, v := range values {
		f = append(f, ifEqual(v), pass)
	}
	return append(f, end)
}

// never ends a call.
func never(call uint32) filter { return of(call, end) }

// without ends a call if any of these bits is set in its argument.
func without(call, arg, bits uint32) filter {
	return of(call, argument(arg), mask(bits), ifEqual(0), pass, end)
}

// notAll ends a call if all of these bits are.
func notAll(call, arg, bits uint32) filter {
	return of(call, argument(arg), mask(bits), ifEqual(bits), end, pass)
}

// details are what a unit forbids of calls that it lets pass.
func details(families []uint32) []filter {
	const (
		namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
		both       = unix.PROT_WRITE | unix.PROT_EXEC
		setID      = unix.S_ISUID | unix.S_ISGID
	)
	return []filter{
		within(unix.SYS_SOCKET, 0, families),
		without(unix.SYS_CLONE, 0, namespaces),
		// Its flags are behind a pointer: who gets this falls back on the one above.
		of(unix.SYS_CLONE3, verdict(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS))),
		never(unix.SYS_UNSHARE),
		never(unix.SYS_SETNS),
		notAll(unix.SYS_MMAP, 2, both),
		without(unix.SYS_MPROTECT, 2, unix.PROT_EXEC),
		without(unix.SYS_PKEY_MPROTECT, 2, unix.PROT_EXEC),
		never(unix.SYS_PERSONALITY),
		never(unix.SYS_SCHED_SETSCHEDULER),
		without(unix.SYS_FCHMOD, 1, setID),
		without(unix.SYS_FCHMODAT, 2, setID),
		without(unix.SYS_MKDIRAT, 2, setID),
	}
}

func (f filter) install() error {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]} //nolint:gosec // the kernel takes 4096
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("install a filter of %d instructions: %w", len(f), errno)
	}
	return nil
}
