package lab

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is where an engine lives: the network namespace of a Host with mount
// and process namespaces of its own. Whatever runs in it ends when it is
// closed, and also when the test's process ends in whatever way.
type world struct {
	t     testing.TB
	host  *Host
	dir   string // logs
	init  *exec.Cmd
	close func()
}

// setUp runs as the first process of a world. A fresh /sys shows the
// interfaces of the world's own network namespace; the cgroups, which it would
// hide, are put back. Engines load kernel modules, br_netfilter among them,
// which would change what this machine's other bridges do: here they cannot.
// The world lasts as long as cat's input stays open.
const setUp = `set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
mkdir /run/cgroup /run/lock
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount --recursive --lazy /run/cgroup
rmdir /run/cgroup
if [ -e /sbin/modprobe ]; then mount --bind /bin/true /sbin/modprobe; fi
mount --bind "$1" /etc/subuid
mount --bind "$1" /etc/subgid
echo ready
exec "$0" -- cat`

// newWorld opens a world. reaper is an init program such as tini, ids a file that
// says which IDs the users of the world may hand out in namespaces of their own.
func newWorld(h *Host, dir, reaper, ids string) *world {
	h.t.Helper()
	w := &world{t: h.t, host: h, dir: dir, init: exec.Command("/bin/sh", "-c", setUp, reaper, ids)}
	w.init.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Cloneflags: unix.CLONE_NEWPID}
	var complaints strings.Builder
	w.init.Stderr = &complaints
	stdin, err := w.init.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stdout, err := w.init.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.Do(func() { err = w.init.Start() })
	if err != nil {
		h.t.Fatalf("open a world: %v", err)
	}
	w.close = sync.OnceFunc(func() {
		stdin.Close()
		_ = w.init.Process.Kill() // the kernel kills all others in the namespace
		_ = w.init.Wait()
	})
	h.t.Cleanup(w.close)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		h.t.Fatalf("open a world: %q, %v: %s", line, err, complaints.String())
	}
	return w
}

// path returns where the test's own process finds a file of the world.
func (w *world) path(inside string) string {
	return fmt.Sprintf("/proc/%d/root%s", w.init.Process.Pid, inside)
}

// start starts a command in the world. Its process ID is the one that the
// test's own process sees. What prepare does to the thread the command inherits.
func (w *world) start(cmd *exec.Cmd, prepare ...func() error) (err error) {
	pidfd, err := unix.PidfdOpen(w.init.Process.Pid, 0)
	if err != nil {
		return fmt.Errorf("enter the world: %w", err)
	}
	defer unix.Close(pidfd)
	enter := func() error { return unix.Setns(pidfd, unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID) }
	return startIn(cmd, append([]func() error{enter}, prepare...)...)
}

// startIn starts a command that inherits what the steps do to the thread that starts it.
func startIn(cmd *exec.Cmd, steps ...func() error) (err error) {
	onOwnThread(func() {
		// A thread may change its mounts only once it shares its root and
		// working directory with no other.
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		for _, step := range steps {
			if err = step(); err != nil {
				return
			}
		}
		err = cmd.Start()
	})
	return err
}

// enterAll is a step into the namespaces that a process is in, given as its directory in
// /proc. Whose rights are looked at is not among them.
func enterAll(process string) error {
	var all []int
	defer func() {
		for _, fd := range all {
			unix.Close(fd)
		}
	}()
	for _, name := range []string{"net", "pid", "uts", "ipc", "mnt"} {
		fd, err := unix.Open(process+"/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", name, err)
		}
		all = append(all, fd)
	}
	// Only now, since the last one hides the directory.
	for _, fd := range all {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("enter a namespace: %w", err)
		}
	}
	return nil
}

// output runs a command in the world to its end and returns what it printed. A
// command that takes longer than two minutes is killed.
func (w *world) output(cmd *exec.Cmd) (string, error) { return w.outputWithin(2*time.Minute, cmd) }

// outputWithin is output with another limit.
func (w *world) outputWithin(limit time.Duration, cmd *exec.Cmd) (string, error) {
	return output(limit, cmd, func() error { return w.start(cmd) })
}

// output is what a command prints until its end, once start has started it.
func output(limit time.Duration, cmd *exec.Cmd, start func() error) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := start()
	if err == nil {
		timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path),
			strings.Join(cmd.Args[1:], " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// process is a service of a world, e.g. dockerd.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  string
}

// service starts a long-lived command. Its output is appended to NAME.log in
// the world's directory; the end of it is shown if the test fails.
func (w *world) service(name string, cmd *exec.Cmd, prepare ...func() error) *process {
	w.t.Helper()
	p := &process{t: w.t, name: name, cmd: cmd, done: make(chan struct{}), log: filepath.Join(w.dir, name+".log")}
	_, statErr := os.Stat(p.log)
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := w.start(cmd, prepare...); err != nil {
		w.t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	if os.IsNotExist(statErr) { // once for all starts of this service
		w.t.Cleanup(func() {
			if w.t.Failed() {
				w.t.Logf("the end of %s:\n%s", p.log, tail(p.log, 8000))
			}
		})
	}
	return p
}

// alive returns an error once the process has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended: %s", p.name, tail(p.log, 2000))
	default:
		return nil
	}
}

// end sends a signal and waits for the process to follow it.
func (p *process) end(signal os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatalf("%s %s: %v", signal, p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%s does not end on %s", p.name, signal)
	}
}

// tail returns the last n bytes of a file.
func tail(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-n):])
}
