package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// bench is a proxy that runs on the lab's host, with a machine behind it that stands for
// the container.
type bench struct {
	testing.TB
	*lab.Lab
	container *lab.Host
	proxy     *proxy.Proxy
	logged    *logtest.Hook
	dialed    atomic.Pointer[net.Conn] // the proxy's last to the container
	stop      context.CancelFunc
	ended     chan error // what Run returned
}

func newBench(t testing.TB, options proxy.Options) *bench {
	t.Helper()
	b := &bench{TB: t, Lab: lab.New(t), ended: make(chan error, 1)}
	b.container = b.Attach("container")
	for _, machine := range []*lab.Host{b.Outside, b.Neighbour, b.container} {
		b.ready(machine, b.Host)
	}
	b.ready(b.Host, b.container)
	options.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		b.Host.Do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
		if err == nil {
			b.dialed.Store(&conn)
		}
		return conn, err
	}
	var log *logrus.Logger
	log, b.logged = logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	t.Cleanup(func() {
		for _, entry := range b.logged.AllEntries() {
			if t.Failed() {
				t.Log(entry.Message, entry.Data)
			}
		}
	})
	var err error
	if b.proxy, err = proxy.New(log, options); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	go func() { b.ended <- b.proxy.Run(ctx) }()
	t.Cleanup(b.mustEnd)
	return b
}

// ready waits until a machine reaches another one. Before its addresses are ready it
// would ask from ::1, and nobody answers that.
func (b *bench) ready(from, to *lab.Host) {
	b.Helper()
	lab.Until(b, "lab", func() error { return from.Ping(to.Addr6, 100*time.Millisecond) })
}

// mustEnd ends the proxy and fails the test if anything of it remains.
func (b *bench) mustEnd() {
	b.Helper()
	b.stop()
	select {
	case err := <-b.ended:
		if err != nil {
			b.Error(err)
		}
		b.ended <- nil // for the next who asks
	case <-time.After(20 * time.Second):
		b.Fatal("the proxy does not end")
	}
	lab.Until(b, "goroutines of the proxy", func() error {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if at := strings.Index(string(stacks), "proxy.(*Proxy)"); at >= 0 {
			return fmt.Errorf("remain: %.300s", stacks[at:])
		}
		return nil
	})
	b.mustCount(proxy.Stats{})
}

// mustCount waits until the proxy has so many connections and sessions.
func (b *bench) mustCount(want proxy.Stats) {
	b.Helper()
	lab.Until(b, "connections and sessions", func() error {
		if got := b.proxy.Stats(); got != want {
			return fmt.Errorf("want %+v, got %+v", want, got)
		}
		return nil
	})
}

// mustNotServe asks in vain: a client of TCP is reset once the kernel has accepted it,
// one of UDP hears nothing. What there is answers at once, so that the wait is short.
func (b *bench) mustNotServe(from *lab.Host, network, address string) {
	b.Helper()
	wait, want := 100*time.Millisecond, hello.Drop
	if network == "tcp" {
		wait, want = hello.Patience, hello.Refuse
	}
	answer, err := from.AskFor(network, address, wait)
	if got := hello.Judge(err); got != want || network == "tcp" && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		b.Errorf("%s/%s: want %s, got %v %v", address, network, want, answer, err)
	}
}

// hold opens a socket on the host as a published port has it: one of IPv6 is of both
// families. It is forgotten and closed with the test.
func (b *bench) hold(network, address string) (fd int) {
	b.Helper()
	at := netip.MustParseAddrPort(address)
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	kind := unix.SOCK_DGRAM
	if network == "tcp" {
		kind = unix.SOCK_STREAM
	}
	var err error
	b.Host.Do(func() { fd, err = bound(family, kind, sockaddr) })
	if err != nil {
		b.Fatalf("hold %s/%s: %v", address, network, err)
	}
	return fd
}

func bound(family, kind int, at unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return -1, err
		}
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return -1, err
		}
	}
	if err := unix.Bind(fd, at); err != nil {
		return -1, err
	}
	if kind == unix.SOCK_STREAM {
		return fd, unix.Listen(fd, unix.SOMAXCONN)
	}
	return fd, nil
}

// release is what the owner of a held socket does when the port is no longer published.
func (b *bench) release(fd int) {
	b.proxy.Forget(fd)
	if err := unix.Close(fd); err != nil {
		b.Error(err)
	}
}

// serve holds a port and serves it, until the test ends.
func (b *bench) serve(network, address string, route proxy.Route) (fd int) {
	b.Helper()
	fd = b.hold(network, address)
	b.Cleanup(func() { b.release(fd) })
	b.reroute(fd, network, route)
	return fd
}

// reroute has Serve tell where port 80 of which container a socket leads.
func (b *bench) reroute(fd int, network string, route proxy.Route) {
	b.Helper()
	route.Proto, route.Port = spec.UDP, 80
	if network == "tcp" {
		route.Proto = spec.TCP
	}
	if err := b.proxy.Serve(fd, route); err != nil {
		b.Fatal(err)
	}
}

// all leads either family to an address of its own.
func (b *bench) all() proxy.Route {
	return proxy.Route{V4: plan.Proxy{To: b.container.Addr, All: true}, V6: plan.Proxy{To: b.container.Addr6, All: true}}
}

// linkLocal is the address that the nth machine of a lab has on eth0 by its MAC.
func linkLocal(n int) string { return fmt.Sprintf("fe80::ff:fe00:%x", n) }

// scoped is an address of a neighbour as a machine has to call it.
func scoped(on *lab.Host, addr string) string {
	var index int
	on.Do(func() {
		if eth0, err := net.InterfaceByName("eth0"); err == nil {
			index = eth0.Index
		}
	})
	return fmt.Sprintf("%s%%%d", addr, index)
}

func port8080(addr string) string { return net.JoinHostPort(addr, "8080") }

func TestKernelProxyServesWhomTheKernelCannot(t *testing.T) {
	b := newBench(t, proxy.Options{})
	to4, to6 := b.container.Addr, b.container.Addr6
	// Deprecated: answered from, and chosen for nothing else.
	for _, addr := range []string{"192.0.2.77/24", "2001:db8:1::77/64"} {
		b.Host.Run("ip", "addr", "add", addr, "dev", "eth0", "nodad", "preferred_lft", "0")
	}
	// A client that has no address of IPv6 but its link-local one.
	mute := b.Attach("mute")
	mute.Run("ip", "addr", "del", mute.Addr6.String()+"/64", "dev", "eth0")
	mute.Run("ip", "route", "add", "2001:db8:1::/64", "dev", "eth0")
	b.ready(mute, b.Host)
	var (
		all       = b.all()
		all4      = proxy.Route{V4: plan.Proxy{To: to4, All: true}, V6: plan.Proxy{To: to4, All: true}}
		few       = proxy.Route{V6: plan.Proxy{To: to6}}
		from4     = b.Host.Addr
		from6     = b.Host.Addr6
		self      = scoped(b.Host, linkLocal(1))
		byOutside = scoped(b.Outside, linkLocal(1))
		byMute    = scoped(mute, linkLocal(1))
	)
	rows := []struct {
		promise string
		route   proxy.Route
		client  *lab.Host
		asks    []string
		seen    netip.Addr // by the container; the zero Addr if nobody is served
	}{
		{"the host reaches IPv6 by ::1", few, b.Host, []string{"::1"}, from6},
		{"the host reaches a container of IPv4 only by ::1", all4, b.Host, []string{"::1"}, from4},
		{"the host reaches IPv6 by its own link-local address", few, b.Host, []string{self}, from6},
		{"a link-local client reaches the link-local address", few, b.Outside, []string{byOutside}, from6},
		{"a link-local client reaches global addresses", few, mute, []string{byMute, "2001:db8:1::1", "2001:db8:1::77"}, from6},
		{"a global client reaches a container of IPv4 only by any address of IPv6", all4, b.Outside, []string{"2001:db8:1::1", "2001:db8:1::77", byOutside}, from4},
		{"without a firewall clients reach the container in their own family by each address, IPv4", all, b.Outside, []string{"192.0.2.1", "192.0.2.77"}, from4},
		{"without a firewall clients reach the container in their own family by each address, IPv6", all, b.Outside, []string{"2001:db8:1::1", "2001:db8:1::77"}, from6},
		{"without a firewall the host reaches it by each address, IPv4", all, b.Host, []string{"127.0.0.1", "127.0.0.2", "192.0.2.1", "192.0.2.77"}, from4},
		{"without a firewall the host reaches it by each address, IPv6", all, b.Host, []string{"::1", "2001:db8:1::1", "2001:db8:1::77", self}, from6},
		{"a global client is the kernel's to serve", few, b.Outside, []string{"2001:db8:1::1"}, netip.Addr{}},
		{"no client of IPv4 is served where nothing is for it", few, b.Outside, []string{"192.0.2.1"}, netip.Addr{}},
	}
	for _, network := range []string{"tcp", "udp"} {
		b.container.Serve(network, "[::]:80")
		fd := b.serve(network, "[::]:8080", proxy.Route{})
		for _, row := range rows {
			b.reroute(fd, network, row.route)
			for _, addr := range row.asks {
				if !row.seen.IsValid() {
					b.mustNotServe(row.client, network, port8080(addr))
					continue
				}
				if seen := row.client.MustReach(network, port8080(addr), "container"); seen.Addr() != row.seen {
					t.Errorf("%s: %s by %s: the container saw %v, want %v", row.promise, network, addr, seen.Addr(), row.seen)
				}
			}
		}
	}
}

func TestKernelProxySocketsOfOneAddress(t *testing.T) {
	b := newBench(t, proxy.Options{})
	for _, network := range []string{"tcp", "udp"} {
		b.container.Serve(network, "[::]:80")
		for _, addr := range []string{"127.0.0.2", "0.0.0.0", "::1"} {
			fd := b.hold(network, port8080(addr))
			b.reroute(fd, network, b.all())
			if addr == "0.0.0.0" {
				addr = "127.0.0.3"
			}
			b.Host.MustReach(network, port8080(addr), "container")
			b.release(fd)
		}
	}
}

// refusals are the clients that a proxy asked whether to refuse, all of which it shall.
type refusals chan string

func (r refusals) refuse(client netip.AddrPort, ifindex int) bool {
	r <- fmt.Sprintf("%v %d", client.Addr(), ifindex)
	return true
}

func TestKernelProxyAsksWhomToRefuse(t *testing.T) {
	asked := make(refusals, 100)
	b := newBench(t, proxy.Options{Refuse: asked.refuse})
	index := strings.TrimPrefix(scoped(b.Host, ""), "%")
	b.container.Serve("tcp", "[::]:80")
	b.container.Serve("udp", "[::]:80")
	b.serve("tcp", "[::]:8080", b.all())
	b.serve("udp", "[::]:8080", b.all())
	for _, row := range []struct {
		network, addr string
		want          string
	}{
		{"tcp", "192.0.2.1", "192.0.2.2 0"},
		{"tcp", "2001:db8:1::1", "2001:db8:1::2 0"},
		{"tcp", scoped(b.Outside, linkLocal(1)), linkLocal(2) + "%" + index + " " + index},
		{"udp", "192.0.2.1", "192.0.2.2 " + index},
		{"udp", "2001:db8:1::1", "2001:db8:1::2 " + index},
		{"udp", scoped(b.Outside, linkLocal(1)), linkLocal(2) + "%" + index + " " + index},
	} {
		b.mustNotServe(b.Outside, row.network, port8080(row.addr))
		if got := <-asked; got != row.want {
			t.Errorf("%s to %s: asked whether to refuse %s, want %s", row.network, row.addr, got, row.want)
		}
		for len(asked) > 0 {
			<-asked // each datagram asks
		}
	}
	b.mustCount(proxy.Stats{})
}
