package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// echoDatagrams answers on the container's port 80 with what is asked.
func (b *bench) echoDatagrams() {
	b.Helper()
	b.echoIf(func(string, net.Addr) bool { return true })
}

// echoIf answers likewise if it shall.
func (b *bench) echoIf(shall func(data string, from net.Addr) bool) {
	b.Helper()
	var conn net.PacketConn
	var err error
	b.container.Do(func() { conn, err = net.ListenPacket("udp", "[::]:80") })
	if err != nil {
		b.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return // closed
			}
			if shall(string(buffer[:n]), from) {
				_, _ = conn.WriteTo(buffer[:n], from)
			}
		}
	})
	b.Cleanup(func() {
		conn.Close()
		served.Wait()
	})
}

// speak makes a client's socket, which takes answers from nowhere but the address.
func (b *bench) speak(from *lab.Host, address string) net.Conn {
	b.Helper()
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.Dial("udp", address) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

// mustEcho asks until the same comes back.
func mustEcho(t testing.TB, conn net.Conn, data []byte) {
	t.Helper()
	lab.Until(t, fmt.Sprintf("echo of %d bytes by %v", len(data), conn.RemoteAddr()), func() error {
		return ask(conn, data)
	})
}

// ask says something, which shall come back.
func ask(conn net.Conn, data []byte) error {
	if _, err := conn.Write(data); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	if err == nil && !bytes.Equal(buffer[:n], data) {
		err = fmt.Errorf("%q came back, want %q", buffer[:n], data)
	}
	return err
}

func mustSend(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestKernelProxyUDPBringsDatagramsOfAllSizes(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.echoDatagrams()
	b.serve("udp", "[::]:8080", b.all())
	largest := bytes.Repeat([]byte("Drawbridge"), 6551)[:65507]
	for _, addr := range []string{"127.0.0.1", "::1"} {
		mustEcho(t, b.speak(b.Host, port8080(addr)), nil)
		mustEcho(t, b.speak(b.Host, port8080(addr)), largest)
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8:1::1", scoped(b.Outside, linkLocal(1))} {
		mustEcho(t, b.speak(b.Outside, port8080(addr)), largest)
	}
}

func TestKernelProxyUDPSessionIsOfOneClientAndAddress(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.container.Serve("udp", "[::]:80")
	b.serve("udp", "[::]:8080", b.all())
	seen := map[uint16]string{}
	for _, asks := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.2", "::1", scoped(b.Host, linkLocal(1))} {
		client := b.Host.Dial("udp", port8080(asks))
		first, err := client.Ask(hello.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if other, known := seen[first.Client.Port()]; known {
			t.Errorf("clients of %s and %s share a session", asks, other)
		}
		seen[first.Client.Port()] = asks
		if again, err := client.Ask(hello.Patience); err != nil || again != first {
			t.Errorf("the same client was %v, and is %v %v", first, again, err)
		}
	}
	b.mustCount(proxy.Stats{Sessions: len(seen)})
}

func TestKernelProxyUDPSessionEndsWhenTheContainerRefuses(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.serve("udp", "[::]:8080", b.all())
	client := b.Host.Dial("udp", "[::1]:8080")
	if answer, err := client.Ask(100 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("want silence, got %v %v", answer, err)
	}
	b.mustCount(proxy.Stats{})
	b.container.Serve("udp", "[::]:80")
	if _, err := client.Ask(hello.Patience); err != nil {
		t.Errorf("the container listens now: %v", err)
	}
	// A client that has gone refuses its answers: no other one must feel it.
	for range 3 {
		conn := b.speak(b.Host, "[::1]:8080")
		mustSend(t, conn)
		conn.Close()
		b.Host.MustReach("udp", "[::1]:8080", "container")
	}
}

func TestKernelProxyUDPSessionEndsInSilence(t *testing.T) {
	b := newBench(t, proxy.Options{Idle: 300 * time.Millisecond})
	fd := b.serve("udp", "[::]:8080", b.all())
	b.echoDatagrams()
	talk := b.speak(b.Host, "[::1]:8080")
	mustEcho(t, talk, []byte("x"))
	mustEcho(t, talk, []byte("x"))                            // is more than one question, and so has more time
	mustEcho(t, b.speak(b.Host, "[::1]:8080"), []byte("one")) // and this is not
	b.mustCount(proxy.Stats{Sessions: 2})
	b.mustCount(proxy.Stats{Sessions: 1})

	mute := b.all()
	mute.V4.To = b.Neighbour.Addr
	b.reroute(fd, "udp", mute)
	b.Neighbour.Bind("udp", netip.MustParseAddrPort("0.0.0.0:80")) // hears and says nothing
	began := time.Now()
	mustSend(t, b.speak(b.Host, "127.0.0.1:8080"))
	steady := b.speak(b.Host, "127.0.0.1:8080")
	mustSend(t, steady)
	b.mustCount(proxy.Stats{Sessions: 3})
	lab.Until(t, "the session of a client that stays silent ends", func() error {
		mustSend(t, steady)
		if n := b.proxy.Stats().Sessions; n != 2 {
			return fmt.Errorf("%d sessions, want 2", n)
		}
		return nil
	})
	if after := time.Since(began); after < 300*time.Millisecond {
		t.Errorf("it ended after %v", after)
	}
	b.mustCount(proxy.Stats{Sessions: 1})
}

func TestKernelProxyUDPHasLimits(t *testing.T) {
	b := newBench(t, proxy.Options{Sessions: 8})
	b.echoDatagrams()
	for _, at := range []string{"[::]:8080", "[::]:8081", "[::]:8082"} {
		b.serve("udp", at, b.all())
	}
	served := func(from *lab.Host, port string) net.Conn {
		conn := b.speak(from, "192.0.2.1:"+port)
		mustEcho(t, conn, []byte("x"))
		mustEcho(t, conn, []byte("x")) // a single question would give way
		return conn
	}
	old := served(b.Outside, "8080")
	served(b.Outside, "8080")
	b.mustNotServe(b.Outside, "udp", "192.0.2.1:8080")
	served(b.Neighbour, "8080") // a client cannot take what others need
	served(b.Neighbour, "8080")
	b.mustNotServe(b.Host, "udp", "192.0.2.1:8080")
	for range 2 { // nor can a port
		served(b.Outside, "8081")
		served(b.Neighbour, "8081")
	}
	b.mustNotServe(b.Host, "udp", "192.0.2.1:8082")
	mustEcho(t, old, []byte("still"))
	b.mustCount(proxy.Stats{Sessions: 8})
	b.mustHaveLogged("8080/udp: proxy: no new sessions: the client has its share of those that the port may have",
		"8080/udp: proxy: no new sessions: the port has its share of those that may be open",
		"8082/udp: proxy: no new sessions: as many are open as may be")
}

// Whoever asks from port after port, in vain, one question each or in the name of others,
// keeps nobody else from being served, and ends no session in which both sides speak.
func TestKernelProxyUDPQuestionsGiveWay(t *testing.T) {
	for _, row := range []struct {
		promise string
		from    func(*bench) *lab.Host
		port    string
	}{
		{"to the same client", outside, "8080"},
		{"to another client of the port", host, "8080"},
		{"to a client of another port", host, "8082"},
	} {
		t.Run(row.promise, func(t *testing.T) {
			b := newBench(t, proxy.Options{Sessions: 8})
			talks := make(chan string, 100)
			b.echoIf(func(data string, from net.Addr) bool {
				if data == "talk" {
					talks <- from.String()
				}
				return data != "x"
			})
			for _, port := range []string{"8080", "8081", "8082"} {
				b.serve("udp", "[::]:"+port, b.all())
			}
			talk := b.speak(b.Outside, "192.0.2.1:8080")
			mustEcho(t, talk, []byte("talk"))
			mustEcho(t, talk, []byte("talk"))
			for range 10 {
				mustEcho(t, b.speak(b.Outside, "192.0.2.1:8080"), []byte("one"))
				mustSend(t, b.speak(b.Outside, "192.0.2.1:8080"))
				mustSend(t, b.speak(b.Neighbour, "192.0.2.1:8080"))
				mustSend(t, b.speak(b.Neighbour, "192.0.2.1:8081"))
				mustSend(t, b.speak(b.container, "192.0.2.1:8081"))
			}
			b.mustCount(proxy.Stats{Sessions: 8})
			mustEcho(t, b.speak(row.from(b), "192.0.2.1:"+row.port), []byte("served"))
			mustEcho(t, talk, []byte("talk"))
			before := <-talks
			for range len(talks) {
				if after := <-talks; after != before {
					t.Errorf("a session in which both speak has ended: %s goes on as %s", before, after)
				}
			}
			b.mustHaveLogged()
		})
	}
}

// Whoever is refused speaks into no session of another client, and is answered no more.
func TestKernelProxyUDPRefusesWhileASessionLasts(t *testing.T) {
	var inner, forgeries atomic.Int64
	var everybody atomic.Bool
	b := newBench(t, proxy.Options{Refuse: func(_ netip.AddrPort, ifindex int) bool {
		if int64(ifindex) == inner.Load() {
			forgeries.Add(1)
			return true
		}
		return everybody.Load()
	}})
	b.Cable("inner", b.Neighbour, b.Host)
	for _, end := range []*lab.Host{b.Neighbour, b.Host} {
		end.Run("ip", "link", "set", "inner", "up")
	}
	b.Host.Do(func() {
		link, err := net.InterfaceByName("inner")
		if err != nil {
			t.Fatal(err)
		}
		inner.Store(int64(link.Index))
	})
	var from atomic.Value
	b.echoIf(func(data string, session net.Addr) bool {
		switch data {
		case forged:
			t.Error("a forged datagram came to the container")
		case "first":
			from.Store(session.String())
		case "second":
			if was := from.Load(); was != session.String() {
				t.Errorf("the session of %s has ended", was)
			}
		case "last":
			everybody.Store(true)
		}
		return true
	})
	b.serve("udp", "[::]:8080", b.all())
	client := b.speak(b.Outside, "[2001:db8:1::1]:8080")
	mustEcho(t, client, []byte("first"))

	lab.Until(t, "the proxy asks about a forgery", func() error {
		b.forge(b.Neighbour, "inner", client.LocalAddr().(*net.UDPAddr).AddrPort(), netip.MustParseAddrPort("[2001:db8:1::1]:8080"))
		if forgeries.Load() == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	mustEcho(t, client, []byte("second"))
	b.mustCount(proxy.Stats{Sessions: 1})

	if err := ask(client, []byte("last")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("want silence once everybody is refused, got %v", err)
	}
	b.mustCount(proxy.Stats{})
	everybody.Store(false)
	mustEcho(t, client, []byte("again"))
	everybody.Store(true)
	mustSend(t, client)
	b.mustCount(proxy.Stats{})
}

// The kernel tells of an earlier datagram's fate by failing to send the next one.
func TestKernelProxyUDPLosesNoDatagramToTheEndOfASession(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.echoDatagrams()
	b.serve("udp", "[::]:8080", b.all())
	client := b.speak(b.Host, "[::1]:8080")
	mustEcho(t, client, []byte("first"))
	raw, err := (*b.dialed.Load()).(*net.UDPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if err := unix.Shutdown(int(fd), unix.SHUT_WR); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	mustSend(t, client)
	answer := make([]byte, 10)
	_ = client.SetReadDeadline(time.Now().Add(hello.Patience))
	if n, err := client.Read(answer); err != nil || string(answer[:n]) != "x" {
		t.Errorf("want x to come back, got %q, %v", answer[:n], err)
	}
}

func outside(b *bench) *lab.Host { return b.Outside }

func host(b *bench) *lab.Host { return b.Host }

func TestKernelProxyUDPManyAtOnce(t *testing.T) {
	b := newBench(t, proxy.Options{})
	b.echoDatagrams()
	for i := range 4 {
		b.serve("udp", fmt.Sprintf("[::]:%d", 8080+i), b.all())
	}
	var clients sync.WaitGroup
	for i := range 100 {
		conn := b.speak(b.Host, fmt.Sprintf("127.0.0.%d:%d", i+1, 8080+i%4))
		clients.Go(func() {
			who := fmt.Appendf(nil, "client %d", i)
			for range 20 {
				err := ask(conn, who)
				for n := 0; errors.Is(err, os.ErrDeadlineExceeded) && n < 20; n++ { // one may be lost
					err = ask(conn, who)
				}
				if err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	clients.Wait()
	b.mustCount(proxy.Stats{Sessions: 100})
}
