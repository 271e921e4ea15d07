package publish_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// bench is a layer on a machine of its own, with a proxy that is no part of it.
type bench struct {
	testing.TB
	*publish.Ports
	host     *lab.Host
	internal *publish.Internal
	proxy    *proxy.Proxy
}

func newBench(t testing.TB) *bench {
	t.Helper()
	return benchOn(t, lab.NewHost(t))
}

// benchOn has the proxy connect to containers from the machine, on which they are
// addresses of the loopback.
func benchOn(t testing.TB, host *lab.Host) *bench {
	t.Helper()
	internal := &publish.Internal{}
	p, err := proxy.New(logrus.New(), proxy.Options{
		Refuse: func(client netip.AddrPort, ifindex int) (refused bool) {
			host.Do(func() { refused = internal.Has(client, ifindex) })
			return refused
		},
		Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			host.Do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
			return conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	b := &bench{t, publish.New(p, internal), host, internal, p}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = b.Remove(context.Background())
	})
	return b
}

func (b *bench) apply(have, want *plan.Plan) (err error) {
	b.host.Do(func() { err = named(b.Apply(b.Context(), have, want)) })
	return err
}

// named has an error find out whom it names while the machine's sockets can be seen.
func named(err error) error {
	if err != nil {
		_ = err.Error()
	}
	return err
}

func (b *bench) mustApply(have, want *plan.Plan) {
	b.Helper()
	if err := b.apply(have, want); err != nil {
		b.Fatal(err)
	}
	b.mustCheck(want)
}

func (b *bench) mustCheck(want *plan.Plan, drift ...string) {
	b.Helper()
	var found []plan.Drift
	var err error
	b.host.Do(func() { found, err = b.Check(b.Context(), want) })
	if err != nil {
		b.Fatal(err)
	}
	if got, want := fmt.Sprint(found), fmt.Sprint(drift); got != want {
		b.Errorf("drift (-want +got):\n- %s\n+ %s", want, got)
	}
}

// bind tries to take a port with the options, and reports whether it is had.
func (b *bench) bind(network, address string, options ...int) (had bool) {
	b.Helper()
	at := netip.MustParseAddrPort(address)
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	b.host.Do(func() {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		if family == unix.AF_INET6 {
			options = append(options, -unix.IPV6_V6ONLY)
		}
		for _, o := range options {
			level := unix.SOL_SOCKET
			if o < 0 {
				level, o = unix.IPPROTO_IPV6, -o
			}
			if err := unix.SetsockoptInt(fd, level, o, 1); err != nil {
				b.Fatal(err)
			}
		}
		err = unix.Bind(fd, sockaddr)
		if had = err == nil; !had && !errors.Is(err, unix.EADDRINUSE) {
			b.Fatal(err)
		}
	})
	return had
}

// The endpoints of the tests, all of one network.
const (
	web spec.ID = "3f2a9c0d11ee0000"
	one spec.ID = "9b01c2d3e4f50001"
	two spec.ID = "9b01c2d3e4f50002"
)

// state has endpoints that publish ports.
func state(t testing.TB, published map[spec.ID][]spec.Port) spec.State {
	t.Helper()
	var s spec.State
	n := &spec.Network{ID: web, Pools: []spec.Pool{
		{Prefix: netip.MustParsePrefix("172.30.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00:30::/64")},
	}}
	if err := s.AddNetwork(n); err != nil {
		t.Fatal(err)
	}
	for _, id := range []spec.ID{one, two} {
		ports, there := published[id]
		if !there {
			continue
		}
		last := id[len(id)-1:]
		ep := &spec.Endpoint{
			ID: id, Key: id[4:], Ports: ports,
			IPv4: netip.MustParsePrefix("172.30.0.1" + string(last) + "/24"), IPv6: netip.MustParsePrefix("fd00:30::1" + string(last) + "/64"),
		}
		if err := s.AddEndpoint(web, ep); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func planned(t testing.TB, published map[spec.ID][]spec.Port) *plan.Plan {
	t.Helper()
	return plan.New(state(t, published), &plan.Host{IPv6: true})
}

// alone is a plan in which one endpoint publishes ports.
func alone(t testing.TB, ports ...spec.Port) *plan.Plan {
	t.Helper()
	return planned(t, map[spec.ID][]spec.Port{one: ports})
}

func port(proto spec.Proto, host string, first, count uint16) spec.Port {
	p := spec.Port{Proto: proto, HostPort: first, ContainerPort: first, Count: count}
	if host != "" {
		p.Host = netip.MustParseAddr(host)
	}
	return p
}

// wantObject checks that an error is about endpoint one and what the kernel said.
func wantObject(t *testing.T, err error, errno unix.Errno) {
	t.Helper()
	object := (*plan.ObjectError)(nil)
	if !errors.As(err, &object) || object.Owner != (plan.Owner{Network: web, Endpoint: one}) || !errors.Is(err, errno) {
		t.Fatalf("error %v, want one about endpoint %s: %v", err, one, errno)
	}
}

func openFiles(t testing.TB) []os.DirEntry {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return files
}
