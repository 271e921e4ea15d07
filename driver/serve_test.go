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
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/driver"
)

func TestServeFinishesWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
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
