package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestKernelProxyWaitsForFiles(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.listen(echo)
	fd := b.hold("tcp", "[::]:8080")
	b.Cleanup(func() { b.release(fd) })
	// The kernel accepts them before we do.
	early := []*net.TCPConn{b.dial(b.Host, "[::1]:8080"), b.dial(b.Host, "[::1]:8080")}

	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 3, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}
	b.Cleanup(restore)
	b.reroute(fd, "tcp", b.all())
	lab.Until(t, "complaint", func() error {
		if b.logged.LastEntry() == nil {
			return errors.New("none")
		}
		return nil
	})
	if before := proxy.Unsaid(b.proxy); before > 2 {
		t.Errorf("accept failed %d times at once, want a pause between", before+1)
	}
	restore()
	for _, conn := range early {
		mustSay(t, conn, "x")
		mustHear(t, conn, "x")
	}
	b.mustHaveLogged("8080/tcp: proxy: connections wait")
}

func TestKernelProxyReroutesWhatIsNew(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.container.Serve("tcp", "[::]:80")
	b.container.Serve("udp", "[::]:80")
	b.Neighbour.Serve("tcp", "[::]:80")
	b.Neighbour.Serve("udp", "[::]:80")
	other := proxy.Route{V4: b.all().V4, V6: plan.Proxy{To: b.Neighbour.Addr6}}
	for network, now := range map[string]string{"tcp": "container", "udp": "neighbour"} {
		fd := b.serve(network, "[::]:8080", b.all())
		old := b.Host.Dial(network, "[::1]:8080")
		asks := func(want string) {
			t.Helper()
			lab.Until(t, network, func() error { // an answer may be an earlier question's
				if answer, err := old.Ask(hello.Patience); err != nil || answer.Server != want {
					return fmt.Errorf("want an answer of %s, got %v %w", want, answer, err)
				}
				return nil
			})
		}
		asks("container")
		b.reroute(fd, network, other)
		asks(now) // a connection stays where it is, a session does not
		b.Host.MustReach(network, "[::1]:8080", "neighbour")
		b.Host.MustReach(network, "127.0.0.1:8080", "container")
		old.Close()
	}
}

func TestKernelProxyDrains(t *testing.T) {
	for _, row := range []struct {
		promise string
		drain   time.Duration
		then    func(conn *net.TCPConn)
	}{
		{"a connection goes on and may end orderly", 20 * time.Second, func(conn *net.TCPConn) {
			mustSay(t, conn, "y")
			mustHear(t, conn, "y")
			if err := conn.CloseWrite(); err != nil {
				t.Error(err)
			}
			mustEndOrderly(t, conn)
		}},
		{"a connection that does not end is cut", 100 * time.Millisecond, func(conn *net.TCPConn) { mustBeReset(t, conn) }},
	} {
		t.Run(row.promise, func(t *testing.T) {
			b := newBench(t, proxy.Options{Drain: row.drain})
			b.listen(echo)
			b.container.Serve("udp", "[::]:80")
			tcp := b.serve("tcp", "[::]:8080", b.all())
			udp := b.serve("udp", "[::]:8080", b.all())
			conn := b.dial(b.Host, "[::1]:8080")
			mustSay(t, conn, "x")
			mustHear(t, conn, "x")
			b.Host.MustReach("udp", "[::1]:8080", "container")
			b.mustCount(proxy.Stats{Connections: 1, Sessions: 1})

			b.stop()
			lab.Until(t, "a client has to try again", func() error { return b.unheard("[::1]:8080") })
			lab.Until(t, "sessions", func() error {
				if n := b.proxy.Stats().Sessions; n > 0 {
					return fmt.Errorf("%d go on", n)
				}
				return nil
			})
			row.then(conn)
			b.mustEnd()
			for _, fd := range []int{tcp, udp} { // harmless now
				b.reroute(fd, "tcp", b.all())
				b.proxy.Forget(fd)
			}
		})
	}
}

// unheard reports an error unless the kernel drops what a client of TCP sends.
func (b *bench) unheard(address string) (err error) {
	b.Host.Do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, hello.Impatience); err == nil {
			conn.Close()
			err = errors.New("it is connected")
		}
	})
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		return nil
	}
	return err
}

func TestKernelProxyForgets(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.listen(echo)
	b.container.Serve("udp", "[::]:80")
	b.proxy.Forget(1) // nobody served it
	conns := []*net.TCPConn{}
	tcp, udp := b.hold("tcp", "[::]:8080"), b.hold("udp", "[::]:8080")
	b.reroute(tcp, "tcp", b.all())
	b.reroute(udp, "udp", b.all())
	for range 3 {
		conn := b.dial(b.Host, "[::1]:8080")
		mustSay(t, conn, "x")
		mustHear(t, conn, "x")
		conns = append(conns, conn)
		b.Host.MustReach("udp", "[::1]:8080", "container")
	}
	b.mustCount(proxy.Stats{Connections: 3, Sessions: 3})
	b.proxy.Forget(tcp)
	for _, conn := range conns {
		mustBeReset(t, conn)
	}
	b.mustCount(proxy.Stats{Sessions: 3})
	b.proxy.Forget(udp)
	b.mustCount(proxy.Stats{})
	b.Host.MustNotReach("tcp", "[::1]:8080", hello.Drop)
	b.mustNotServe(b.Host, "udp", "[::1]:8080")
	b.reroute(tcp, "tcp", b.all()) // and again, as if it were another
	b.Host.Do(func() {
		conn, err := net.Dial("tcp", "[::1]:8080")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	b.release(tcp)
	b.release(udp)
}

// Descriptors are used again at once. Nobody must be served by a socket's
// predecessor of the same number.
func TestKernelProxyForgetsWhileClientsCome(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.container.Serve("tcp", "[::]:80")
	b.container.Serve("udp", "[::]:80")
	b.Neighbour.Serve("tcp", "[::]:80")
	b.Neighbour.Serve("udp", "[::]:80")
	to := map[int]string{8080: "container", 8081: "neighbour"}
	routes := map[int]proxy.Route{8080: b.all(), 8081: {V4: plan.Proxy{To: b.Neighbour.Addr, All: true}}}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for _, network := range []string{"tcp", "udp"} {
		for port, server := range to {
			clients.Go(func() {
				for ctx.Err() == nil {
					answer, err := b.Host.AskFor(network, fmt.Sprintf("127.0.0.1:%d", port), 20*time.Millisecond)
					if err == nil && answer.Server != server {
						t.Errorf("%s port %d: %s answers, want %s", network, port, answer.Server, server)
					}
				}
			})
		}
	}
	for range 50 {
		for _, network := range []string{"tcp", "udp"} {
			for port, route := range routes {
				fd := b.hold(network, fmt.Sprintf("[::]:%d", port))
				b.reroute(fd, network, route)
				_, _ = b.Host.AskFor(network, fmt.Sprintf("127.0.0.1:%d", port), 20*time.Millisecond)
				b.release(fd)
			}
		}
	}
	stop()
	clients.Wait()
	b.mustCount(proxy.Stats{})
}

func TestKernelProxyLeavesNoFileOpen(t *testing.T) {
	before := -1
	for range 2 { // what the runtime opens once is open then
		t.Run("a proxy", func(t *testing.T) {
			b := newBench(t, proxy.Options{})
			b.listen(echo)
			b.echoDatagrams()
			b.serve("tcp", "[::]:8080", b.all())
			b.serve("udp", "[::]:8080", b.all())
			for range 5 {
				conn := b.dial(b.Host, "[::1]:8080")
				mustSay(t, conn, "x")
				mustHear(t, conn, "x")
				mustEcho(t, b.speak(b.Host, "[::1]:8080"), []byte("x"))
			}
		})
		if before < 0 {
			before = descriptors(t)
		}
	}
	lab.Until(t, "files", func() error {
		runtime.GC() // closes pipes that wait to be used again
		if now := descriptors(t); now > before {
			return fmt.Errorf("%d are open, %d were", now, before)
		}
		return nil
	})
}

// descriptors are the open files of the process.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestKernelProxyServesNeitherSCTPNorWhatIsNoSocket(t *testing.T) {
	b := newBench(t, proxy.Options{})
	if err := b.proxy.Serve(b.serve("tcp", "[::]:8080", b.all()), proxy.Route{Proto: spec.SCTP}); err == nil {
		t.Error("SCTP is proxied")
	}
	none, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if err := b.proxy.Serve(int(none.Fd()), proxy.Route{Proto: spec.TCP}); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("want %v, got %v", unix.ENOTSOCK, err)
	}
}
