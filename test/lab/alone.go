package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Alone is Drawbridge on a Host without an engine. Whoever tests says what an engine
// would. Its files are in directories that the test may exchange for others.
type Alone struct {
	StateDir, RunDir string
	// Before is a shell script that is run ahead of it, in mounts that are its own.
	Before string
	// Wrap are words in front of its command, e.g. setpriv --bounding-set -net_admin.
	Wrap []string

	t       testing.TB
	host    *Host
	program string
	dir     string
	process *exec.Cmd
	done    chan struct{}

	failpoints *Failpoints
}

// Alone prepares Drawbridge for this machine.
func (h *Host) Alone() *Alone {
	h.t.Helper()
	a := &Alone{t: h.t, host: h, program: os.Getenv("DRAWBRIDGE_BINARY"), dir: h.t.TempDir()}
	if a.program == "" {
		a.program = goBuild(h.t, "cmd/drawbridge")
	}
	a.StateDir, a.RunDir = filepath.Join(a.dir, "lib"), filepath.Join(a.dir, "run")
	h.t.Cleanup(func() {
		a.end(syscall.SIGKILL)
		if h.t.Failed() {
			h.t.Logf("the daemon's log:\n%s", a.Log())
		}
	})
	return a
}

// Start starts the daemon and waits until it is ready. The error is what it said before
// it ended.
func (a *Alone) Start(args ...string) error {
	a.t.Helper()
	words := append([]string{"-ec", a.Before + "\nexec \"$@\"", "sh"}, a.Wrap...)
	words = append(words, a.program, "serve", "--plugin-socket", a.Socket(), "--admin-socket", a.Admin(), "--state-dir", a.StateDir, "--run-dir", a.RunDir)
	a.process = exec.Command("/bin/sh", append(words, args...)...)
	a.process.Env = append(os.Environ(), a.failpoints.env()...)
	a.process.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	log, err := os.Create(filepath.Join(a.dir, "log"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer log.Close()
	a.process.Stdout, a.process.Stderr = log, log
	a.host.Do(func() { err = a.process.Start() })
	if err != nil {
		a.t.Fatal(err)
	}
	done := make(chan struct{})
	a.done = done
	go func() {
		_ = a.process.Wait() // how it ended is in its log
		close(done)
	}()
	var ended error
	Until(a.t, "drawbridge is ready", func() error {
		select {
		case <-done:
			ended = fmt.Errorf("it has ended: %s", a.Log())
			return nil
		default:
		}
		conn, err := net.Dial("unix", a.Socket())
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return ended
}

// MustStart is Start, and fails the test if the daemon ends.
func (a *Alone) MustStart(args ...string) {
	a.t.Helper()
	if err := a.Start(args...); err != nil {
		a.t.Fatal(err)
	}
}

// Kill ends the daemon without a warning.
func (a *Alone) Kill() { a.end(syscall.SIGKILL) }

// Stop ends the daemon as a service manager does.
func (a *Alone) Stop() { a.end(syscall.SIGTERM) }

func (a *Alone) end(signal syscall.Signal) {
	if a.done == nil {
		return
	}
	_ = a.process.Process.Signal(signal) // it may have ended
	<-a.done
	a.done = nil
}

// Alive reports whether the daemon runs.
func (a *Alone) Alive() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// Pid is the daemon's process.
func (a *Alone) Pid() int { return a.process.Process.Pid }

// Log is what the daemon has said since its last start.
func (a *Alone) Log() string { return tail(filepath.Join(a.dir, "log"), 1<<20) }

// Socket is where an engine would find it.
func (a *Alone) Socket() string { return filepath.Join(a.dir, "sockets", "plugin.sock") }

// Admin is where the operator does.
func (a *Alone) Admin() string { return filepath.Join(a.dir, "sockets", "admin.sock") }

// Drawbridge runs a command of the operator's, e.g. Drawbridge("status").
func (a *Alone) Drawbridge(args ...string) (string, error) {
	a.t.Helper()
	return a.host.Try(a.program, append(args, "--admin-socket", a.Admin())...)
}

// Ask is a call of an engine's, e.g. NetworkDriver.Join, with a request in JSON. The
// error is what people see who run docker.
func (a *Alone) Ask(call, request string) error {
	a.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", a.Socket())
		},
	}}
	res, err := client.Post("http://drawbridge/"+call, "application/json", bytes.NewReader([]byte(request)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var answer struct{ Err, Error string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w: %s", call, err, body)
	}
	if text := cmp.Or(answer.Err, answer.Error); text != "" {
		return errors.New(text)
	}
	return nil
}

// Netns names the machine's network namespace for other processes while the test lasts.
func (h *Host) Netns() string { return h.path() }

// Dir is where all of its files are, unless the test has moved them.
func (a *Alone) Dir() string { return a.dir }
