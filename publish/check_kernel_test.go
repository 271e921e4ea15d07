package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestKernelPublishKeepsNobodyWaitingWhoIsToldWhoHasAPort: to find out, all processes are
// looked at, and the name of this one does not come before the end of the test.
func TestKernelPublishKeepsNobodyWaitingWhoIsToldWhoHasAPort(t *testing.T) {
	b := newBench(t)
	b.host.Serve("tcp", "127.0.0.1:8080")
	want := alone(t, port(spec.TCP, "", 8080, 1))
	wantObject(t, b.apply(nil, want), unix.EADDRINUSE)

	fifo := filepath.Join(t.TempDir(), "comm")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	checked := make(chan string, 1)
	go b.host.Do(func() {
		var drift []plan.Drift
		err := cover("comm", fifo)
		if err == nil {
			drift, err = b.Check(t.Context(), want)
		}
		checked <- fmt.Sprint(drift, err)
	})
	name := writeTo(t, fifo)
	reserved := make(chan error, 1)
	go func() {
		release, err := b.reserve(owner, port(spec.TCP, "", 8081, 1))
		if err == nil {
			release()
		}
		reserved <- err
	}()
	select {
	case err := <-reserved:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(hello.Patience):
		t.Error("a port is not reserved before somebody else knows who has another")
	}
	if _, err := name.WriteString("\x1b[2Jslow\n"); err != nil {
		t.Error(err)
	}
	name.Close()
	if got, want := <-checked, fmt.Sprintf("[port 8080/tcp on every address held: want 1, got taken by ?[2Jslow (pid %d)] <nil>", os.Getpid()); got != want {
		t.Errorf("(-want +got):\n- %s\n+ %s", want, got)
	}
}

// TestKernelPublishLooksOnceForWhoHasAPort as long as he has it under the same name, even if
// he is not seen: all processes of a busy host are many, and each look at the host asks.
func TestKernelPublishLooksOnceForWhoHasAPort(t *testing.T) {
	b := newBench(t)
	b.host.Serve("tcp", "127.0.0.1:8080")
	want := alone(t, port(spec.TCP, "", 8080, 1))
	wantObject(t, b.apply(nil, want), unix.EADDRINUSE)
	name, nothing := comm(t), t.TempDir()
	rename := func(name string) {
		if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
			t.Fatal(err)
		}
	}
	defer rename(name)
	taken := func(port int, by string) string {
		return fmt.Sprintf("port %d/tcp on every address held: want 1, got taken by %s", port, by)
	}
	by := func(name string) string { return fmt.Sprintf("%s (pid %d)", name, os.Getpid()) }
	unseen := "a socket on 127.0.0.1:8080 of a process that cannot be seen from here"
	blind := func(by string) { // to whoever looks now, this process has nothing open
		t.Helper()
		b.host.Do(func() {
			if err := cover("fd", nothing); err != nil {
				t.Fatal(err)
			}
			found, err := b.Check(t.Context(), want)
			if got, want := fmt.Sprint(found, err), fmt.Sprintf("[%s] <nil>", taken(8080, by)); got != want {
				t.Errorf("(-want +got):\n- %s\n+ %s", want, got)
			}
		})
	}
	b.mustCheck(want, taken(8080, by(name)))
	blind(by(name))
	b.mustCheck(plan.New(spec.State{}, &plan.Host{})) // he is no longer in the way
	blind(unseen)
	b.mustCheck(want, taken(8080, unseen))

	b.host.Serve("tcp", "127.0.0.1:8000")
	more := alone(t, port(spec.TCP, "", 8000, 1), port(spec.TCP, "", 8080, 1))
	b.mustCheck(more, taken(8000, by(name)), taken(8080, by(name)))
	rename("another")
	b.mustCheck(more, taken(8000, by("another")), taken(8080, by("another")))
	blind(by("another"))
}

// cover has this thread alone see something else in place of a file of this process.
func cover(file, by string) error {
	return errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(by, fmt.Sprintf("/proc/%d/%s", os.Getpid(), file), "", unix.MS_BIND, ""))
}

// writeTo opens a pipe as soon as somebody reads from it.
func writeTo(t *testing.T, fifo string) *os.File {
	t.Helper()
	for end := time.Now().Add(hello.Patience); time.Now().Before(end); {
		f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			return f
		}
		if !errors.Is(err, unix.ENXIO) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	t.Fatal("nobody asks for the name")
	return nil
}
