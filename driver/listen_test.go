package driver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/driver"
)

// listen makes a socket in a directory that does not exist yet.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := driver.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

func TestSocketIsForRootAndItsGroupOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "plugins", "drawbridge.sock")
	listen(t, path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the socket: %v, %v", entries, err)
	}
}

const fs660 = os.ModeSocket | 0o660

func TestSocketOfTheDeadIsReplacedAndThatOfTheLivingIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	listen(t, path)
	if _, err := driver.Listen(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("two servers on one path: %v", err)
	}
	// A process that is killed leaves its socket behind.
	stale := filepath.Join(t.TempDir(), "stale.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, stale)
	conn, err := net.Dial("unix", stale)
	if err != nil {
		t.Fatalf("the new socket does not answer: %v", err)
	}
	conn.Close()
}

func TestClosedSocketLeavesNoNameUnlessItIsAnothers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	l := listen(t, path)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	l = listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket went with us: %v", err)
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := driver.Listen(path); err == nil {
		t.Error("a file was taken for a socket")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestServeFinishesWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	l := listen(t, path)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- driver.New(r.engine, r.ipam, r.onLink, r.logger).Serve(ctx, l) }()

	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	answer := func(want string) {
		t.Helper()
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
			t.Errorf("answer %q, %v, want %q", got, err, want)
		}
	}
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	// Debian's 20.10 sends an empty Host.
	say("POST /NetworkDriver.FreeNetwork HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")
	answer(`{"Err":"request has no body; nothing was done, try again","Error":"request has no body; nothing was done, try again"}` + "\n")

	// A request that has begun when the end comes, and whose body follows: with 100
	// Continue the server says that it waits for it.
	body := `{"NetworkID":"` + net1 + `"}`
	say(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: plugin\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", deleteNetwork, len(body)))
	answer("")
	stop()
	waitGone(t, path)
	say(body)
	answer("{}\n")
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// waitGone waits until nobody can connect any more.
func waitGone(t *testing.T, path string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-deadline:
			t.Fatal("the socket stays")
		case <-tick.C:
		}
	}
}
