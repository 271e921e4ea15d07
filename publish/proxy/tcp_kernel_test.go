package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// listen hands each connection of the container's port 80 to serve.
func (b *bench) listen(serve func(conn *net.TCPConn)) {
	b.Helper()
	var l net.Listener
	var err error
	b.container.Do(func() { l, err = net.Listen("tcp", "[::]:80") })
	if err != nil {
		b.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			served.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		b.stop()
		served.Wait()
	})
}

// dial connects a machine with a published port, until the test ends.
func (b *bench) dial(from *lab.Host, address string) *net.TCPConn {
	b.Helper()
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.DialTimeout("tcp", address, hello.Patience) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn.(*net.TCPConn)
}

func mustSay(t testing.TB, conn *net.TCPConn, what string) {
	t.Helper()
	if _, err := io.WriteString(conn, what); err != nil {
		t.Fatal(err)
	}
}

func mustHear(t testing.TB, conn *net.TCPConn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("want to hear %q, got %q: %v", want, got, err)
	}
}

// mustBeReset waits for the end of a connection, which must not look like that of an
// answer.
func mustBeReset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("want a reset, got %v", err)
	}
}

func mustEndOrderly(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
		t.Errorf("want an orderly end, got %d bytes, %v", n, err)
	}
}

func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

func TestKernelProxyTCPClosesEachDirectionByItself(t *testing.T) {
	b := newBench(t, proxy.Options{})
	heard := make(chan string, 1)
	b.listen(func(conn *net.TCPConn) {
		if _, err := io.WriteString(conn, "greeting"); err != nil || conn.CloseWrite() != nil {
			return
		}
		all, err := io.ReadAll(conn)
		heard <- fmt.Sprint(string(all), err)
	})
	b.serve("tcp", "[::]:8080", b.all())

	t.Run("the server first", func(*testing.T) {
		conn := b.dial(b.Host, "[::1]:8080")
		mustHear(t, conn, "greeting")
		mustEndOrderly(t, conn)
		mustSay(t, conn, "still there")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, want := <-heard, "still there<nil>"; got != want {
			t.Errorf("the server heard %q, want %q", got, want)
		}
	})
	t.Run("the client first", func(*testing.T) {
		conn := b.dial(b.Host, "[::1]:8080")
		mustSay(t, conn, "question")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, want := <-heard, "question<nil>"; got != want {
			t.Errorf("the server heard %q, want %q", got, want)
		}
		mustHear(t, conn, "greeting")
		mustEndOrderly(t, conn)
	})
	b.mustCount(proxy.Stats{})
}

func TestKernelProxyTCPBringsAllBothWaysUncopied(t *testing.T) {
	const size = 64 << 20
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	b := newBench(t, proxy.Options{})
	b.listen(echo)
	b.serve("tcp", "[::]:8080", b.all())
	conn := b.dial(b.Outside, "192.0.2.1:8080")
	mustSay(t, conn, "x")
	mustHear(t, conn, "x")
	// The kernel passes data from socket to socket by way of a pipe.
	if n := pipes(t); n < 4 {
		t.Errorf("%d ends of pipes are open, want 4 of one connection", n)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	digest := sha256.New()
	if n, err := io.Copy(digest, conn); n != size || err != nil {
		t.Errorf("%d bytes came back, want %d: %v", n, size, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(digest.Sum(nil), want[:]) {
		t.Error("what came back is not what was sent")
	}
}

func pipes(t testing.TB) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func TestKernelProxyTCPResetsWhomTheContainerDoesNotServe(t *testing.T) {
	b := newBench(t, proxy.Options{Connect: 300 * time.Millisecond})
	fd := b.serve("tcp", "[::]:8080", b.all())
	b.mustNotServe(b.Host, "tcp", "[::1]:8080") // nobody listens

	b.container.Feed("table inet silent { chain in { type filter hook input priority 0; tcp dport 80 drop; }; }", "nft", "-f", "-")
	b.mustNotServe(b.Host, "tcp", "[::1]:8080")

	b.reroute(fd, "tcp", proxy.Route{V6: plan.Proxy{To: netip.MustParseAddr("2001:db8:2::1"), All: true}})
	b.Host.Run("ip", "route", "add", "unreachable", "2001:db8:2::/64")
	b.mustNotServe(b.Host, "tcp", "[::1]:8080")
	b.mustCount(proxy.Stats{})
}

func TestKernelProxyTCPPassesOnResets(t *testing.T) {
	b := newBench(t, proxy.Options{})
	ends := make(chan error, 1)
	b.listen(func(conn *net.TCPConn) {
		question := make([]byte, 1)
		if _, err := conn.Read(question); err == nil && question[0] == '!' {
			_ = conn.SetLinger(0)
			return
		}
		_, err := conn.Read(question)
		ends <- err
	})
	b.serve("tcp", "[::]:8080", b.all())

	conn := b.dial(b.Host, "[::1]:8080")
	mustSay(t, conn, "!")
	mustBeReset(t, conn)

	conn = b.dial(b.Host, "[::1]:8080")
	mustSay(t, conn, "?")
	b.mustCount(proxy.Stats{Connections: 1})
	_ = conn.SetLinger(0)
	conn.Close()
	if err := <-ends; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server got %v, want a reset", err)
	}
	b.mustCount(proxy.Stats{})
}

func TestKernelProxyTCPManyAtOnce(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.listen(echo)
	for i := range 4 {
		b.serve("tcp", fmt.Sprintf("[::]:%d", 8080+i), b.all())
	}
	var clients sync.WaitGroup
	for i := range 200 {
		conn := b.dial(b.Host, fmt.Sprintf("127.0.0.1:%d", 8080+i%4))
		clients.Go(func() {
			want := strings.Repeat(fmt.Sprintf("client %d;", i), 1000)
			if _, err := io.WriteString(conn, want); err != nil || conn.CloseWrite() != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			if got, err := io.ReadAll(conn); err != nil || string(got) != want {
				t.Errorf("client %d: %d bytes came back, want %d: %v", i, len(got), len(want), err)
			}
			conn.Close()
		})
	}
	clients.Wait()
	b.mustCount(proxy.Stats{})
}

func TestKernelProxyTCPHasLimits(t *testing.T) {
	b := newBench(t, proxy.Options{Connections: 8})
	b.listen(echo)
	b.serve("tcp", "[::]:8080", b.all())
	b.serve("tcp", "[::]:8081", b.all())
	b.serve("tcp", "[::]:8082", b.all())
	served := func(from *lab.Host, port string) *net.TCPConn {
		conn := b.dial(from, net.JoinHostPort("192.0.2.1", port))
		mustSay(t, conn, "x")
		mustHear(t, conn, "x")
		return conn
	}
	first := served(b.Outside, "8080")
	served(b.Outside, "8080")
	for range 3 {
		b.mustNotServe(b.Outside, "tcp", "192.0.2.1:8080")
	}
	served(b.Neighbour, "8080") // a client cannot take what others need
	served(b.Neighbour, "8080")
	b.mustNotServe(b.Host, "tcp", "192.0.2.1:8080")
	for range 2 { // nor can a port
		served(b.Outside, "8081")
		served(b.Neighbour, "8081")
	}
	b.mustNotServe(b.Host, "tcp", "192.0.2.1:8082")

	first.Close()
	b.mustCount(proxy.Stats{Connections: 7})
	served(b.Host, "8080")
	b.mustHaveLogged("8080/tcp: proxy: no new connections: the client has its share of those that the port may have",
		"8080/tcp: proxy: no new connections: the port has its share of those that may be open",
		"8082/tcp: proxy: no new connections: as many are open as may be")
}

// mustHaveLogged compares all warnings.
func (b *bench) mustHaveLogged(want ...string) {
	b.Helper()
	var got []string
	for _, entry := range b.logged.AllEntries() {
		if entry.Level <= logrus.WarnLevel {
			got = append(got, fmt.Sprintf("%s: %s", entry.Data["port"], entry.Message))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("warnings (-want +got):\n- %s\n+ %s", strings.Join(want, "\n- "), strings.Join(got, "\n+ "))
	}
}
