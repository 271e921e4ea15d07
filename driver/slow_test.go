package driver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drawbridge-net/drawbridge/driver"
)

// pipes is a listener whose connections stay within a bubble of synctest, where time
// passes as soon as everybody waits.
type pipes struct {
	conns chan net.Conn
	close func()
}

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p.conns
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error   { p.close(); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// talk hands a connection with a server to a test.
func talk(t *testing.T, test func(t *testing.T, conn net.Conn, answers *bufio.Reader)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		conns := make(chan net.Conn)
		l := pipes{conns, sync.OnceFunc(func() { close(conns) })}
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- driver.New(r.engine, r.ipam, r.onLink, r.logger).Serve(ctx, l) }()
		here, there := net.Pipe()
		l.conns <- there
		test(t, here, bufio.NewReader(here))
		here.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// say writes what a client says, as long as the server listens.
func say(conn net.Conn, text string) error {
	_, err := io.WriteString(conn, text)
	return err
}

const waiting = "POST /NetworkDriver.Join HTTP/1.1\r\nHost: plugin\r\n"

func TestWhoeverBeginsARequestHasToFinishIt(t *testing.T) {
	for _, c := range []struct {
		name, begins, goesOn string // says one piece, and the other every second
		status               int    // 0: the connection ends without a word
	}{
		{"no body comes", waiting + "Content-Length: 100\r\n\r\n", "", http.StatusRequestTimeout},
		{"a body trickles", waiting + "Content-Length: 100000\r\n\r\n", " ", http.StatusRequestTimeout},
		{"chunks trickle for ever", waiting + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", http.StatusRequestTimeout},
		{"a header trickles", waiting + "X-Slow: ", "a", 0},
		{"half a line", "POST /Netw", "", 0},
		{"a body that nobody wants", "POST /NetworkDriver.Fly HTTP/1.1\r\nHost: plugin\r\nContent-Length: 100\r\n\r\n", "", http.StatusNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			talk(t, func(t *testing.T, conn net.Conn, answers *bufio.Reader) {
				start := time.Now()
				var client sync.WaitGroup
				defer client.Wait()
				client.Go(func() {
					for err := say(conn, c.begins); err == nil && c.goesOn != ""; err = say(conn, c.goesOn) {
						time.Sleep(time.Second) //nolint:forbidigo // of a bubble, in which it costs nothing
					}
				})
				resp, err := http.ReadResponse(answers, nil)
				if took := time.Since(start); took > 2*time.Minute {
					t.Errorf("the server waited for %s", took)
				}
				switch {
				case c.status == 0 && err == nil && resp.StatusCode != http.StatusRequestTimeout && resp.StatusCode != http.StatusBadRequest:
					t.Errorf("answered with %s", resp.Status)
				case c.status != 0 && (err != nil || resp.StatusCode != c.status):
					t.Errorf("answer %v, %v, want status %d", resp, err, c.status)
				}
				if _, err := io.Copy(io.Discard, answers); err != nil {
					t.Errorf("the connection does not end: %v", err)
				}
			})
		})
	}
}

// TestAnIdleConnectionStays since an engine may be about to use it.
func TestAnIdleConnectionStays(t *testing.T) {
	talk(t, func(t *testing.T, conn net.Conn, answers *bufio.Reader) {
		for range 3 {
			go func() {
				_ = say(conn, "POST /NetworkDriver.GetCapabilities HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")
			}()
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "local") {
				t.Errorf("answer %s, %v", text, err)
			}
			time.Sleep(24 * time.Hour) //nolint:forbidigo // of a bubble, in which it costs nothing
		}
	})
}

// TestNothingIsReadOfWhatIsTooLarge where it says so beforehand.
func TestNothingIsReadOfWhatIsTooLarge(t *testing.T) {
	talk(t, func(t *testing.T, conn net.Conn, answers *bufio.Reader) {
		go func() { _ = say(conn, waiting+fmt.Sprintf("Content-Length: %d\r\n\r\n", 1<<40)) }()
		start := time.Now()
		resp, err := http.ReadResponse(answers, nil)
		if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Fatalf("answer %v, %v", resp, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
