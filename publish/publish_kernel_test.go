package publish_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// bench is a layer on a machine of its own.
type bench struct {
	testing.TB
	*publish.Ports
	host *lab.Host
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t, publish.New(), lab.NewHost(t)}
	t.Cleanup(func() { _ = b.Remove(context.Background()) })
	return b
}

func (b *bench) apply(have, want *plan.Plan) (err error) {
	b.host.Do(func() { err = b.Apply(b.Context(), have, want) })
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
	found, err := b.Check(b.Context(), want)
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

func TestKernelPublishTakesWhatItHoldsFromEverybodyElse(t *testing.T) {
	taken := map[string][]string{ // by the published address: what nobody can bind, and what anybody can
		"":          {"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"},
		"0.0.0.0":   {"0.0.0.0", "127.0.0.1", "127.0.0.2"},
		"127.0.0.1": {"0.0.0.0", "127.0.0.1"},
		"::":        {"::", "::1"},
	}
	for host, barred := range taken {
		for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
			t.Run(fmt.Sprintf("%s on %q", proto, host), func(t *testing.T) {
				b := newBench(t)
				b.mustApply(nil, alone(t, port(proto, host, 8080, 1)))
				for _, addr := range taken[""] {
					for _, options := range [][]int{nil, {unix.SO_REUSEADDR}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}} {
						for network, ours := range map[string]bool{"tcp": proto == spec.TCP, "udp": proto == spec.UDP} {
							want := !ours || !contains(barred, addr)
							address := net.JoinHostPort(addr, "8080")
							if had := b.bind(network, address, options...); had != want {
								t.Errorf("bind %s/%s with options %v: had %t, want %t", address, network, options, had, want)
							}
						}
					}
				}
			})
		}
	}
}

func contains(list []string, s string) bool {
	return strings.Contains(" "+strings.Join(list, " ")+" ", " "+s+" ")
}

func TestKernelPublishRefusesAtOnceWhatIsNotTranslated(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "::", "127.0.0.1"} {
		b := newBench(t)
		b.mustApply(nil, alone(t, port(spec.TCP, host, 8080, 1), port(spec.UDP, host, 8080, 1)))
		for _, network := range []string{"tcp", "udp"} {
			for _, address := range []string{"127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"} {
				b.host.MustNotReach(network, address, hello.Refuse)
			}
		}
	}
}

func TestKernelPublishLetsLocalhostFallBackToIPv4(t *testing.T) {
	b := newBench(t)
	b.mustApply(nil, alone(t, port(spec.TCP, "::", 8080, 1)))
	b.host.Serve("tcp", "127.0.0.1:8080") // as the translation would
	b.host.Do(func() {
		begin := time.Now()
		dialer := net.Dialer{Resolver: &net.Resolver{}, FallbackDelay: -1} // one after the other
		conn, err := dialer.Dial("tcp", "localhost:8080")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestKernelPublishRefusesATakenPortAndNamesTheTaker(t *testing.T) {
	self := fmt.Sprintf("(pid %d)", os.Getpid())
	for _, c := range []struct {
		name, network, listen string
		port                  spec.Port
		want                  string
	}{
		{"every address against one", "tcp", "127.0.0.1:8080", port(spec.TCP, "", 8080, 1), "port 8080/tcp on every address: address already in use by "},
		{"every address against IPv6", "tcp", "[::1]:8080", port(spec.TCP, "", 8080, 1), "port 8080/tcp on every address: address already in use by "},
		{"every IPv4 address against one", "udp", "127.0.0.1:53", port(spec.UDP, "0.0.0.0", 53, 1), "port 53/udp on 0.0.0.0: address already in use by "},
		{"one against every IPv4 address", "tcp", "0.0.0.0:8080", port(spec.TCP, "127.0.0.1", 8080, 1), "port 8080/tcp on 127.0.0.1: address already in use by "},
		{"one against every address of both families", "tcp", "[::]:8080", port(spec.TCP, "127.0.0.1", 8080, 1), "port 8080/tcp on 127.0.0.1: address already in use by "},
		{"every IPv6 address against one", "udp", "[::1]:8080", port(spec.UDP, "::", 8080, 1), "port 8080/udp on ::: address already in use by "},
		{"a range against its last", "tcp", "0.0.0.0:8089", port(spec.TCP, "", 8080, 10), "port 8089/tcp on every address: address already in use by "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.host.Serve(c.network, c.listen)
			err := b.apply(nil, alone(t, c.port))
			wantObject(t, err, unix.EADDRINUSE)
			if !strings.HasPrefix(err.Error(), c.want) || !strings.HasSuffix(err.Error(), self) {
				t.Errorf("error %q, want %q … %q", err, c.want, self)
			}
			free := plan.New(spec.State{}, &plan.Host{})
			b.mustCheck(free)
		})
	}
}

// wantObject checks that an error is about endpoint one and what the kernel said.
func wantObject(t *testing.T, err error, errno unix.Errno) {
	t.Helper()
	object := (*plan.ObjectError)(nil)
	if !errors.As(err, &object) || object.Owner != (plan.Owner{Network: web, Endpoint: one}) || !errors.Is(err, errno) {
		t.Fatalf("error %v, want one about endpoint %s: %v", err, one, errno)
	}
}

func TestKernelPublishTellsAPortThatIsNotFreeYet(t *testing.T) {
	b := newBench(t)
	b.host.Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// Whoever closes first waits; its end of file is acknowledged before the
		// other side sees it.
		server.Close()
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Fatal("read something")
		}
		client.Close()
		l.Close()
	})
	lab.Until(t, "the connection is over", func() error {
		err := b.apply(nil, alone(t, port(spec.TCP, "", 8080, 1)))
		if err == nil {
			t.Fatal("a port with a closed connection was had")
		}
		if !strings.Contains(err.Error(), "by a connection that was closed less than a minute ago") {
			return err
		}
		return nil
	})
}

func TestKernelPublishRefusesAnAddressThatTheHostLacks(t *testing.T) {
	for _, host := range []string{"192.0.2.99", "2001:db8::99"} {
		b := newBench(t)
		err := b.apply(nil, alone(t, port(spec.TCP, host, 8080, 1)))
		wantObject(t, err, unix.EADDRNOTAVAIL)
		if want := "port 8080/tcp on " + host + ": the host has no such address"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}

func TestKernelPublishHoldsAllPortsOfAnEndpointOrNone(t *testing.T) {
	b := newBench(t)
	b.host.Bind("tcp", netip.MustParseAddrPort("127.0.0.1:8006"))
	first := port(spec.TCP, "", 7000, 1)
	before := planned(t, map[spec.ID][]spec.Port{one: {first}, two: nil})
	b.mustApply(nil, before)

	want := planned(t, map[spec.ID][]spec.Port{one: {first, port(spec.TCP, "", 8000, 10)}, two: {port(spec.UDP, "", 8006, 1)}})
	err := b.apply(before, want)
	wantObject(t, err, unix.EADDRINUSE)
	for n := 8000; n < 8010; n++ {
		if had := b.bind("tcp", fmt.Sprintf("127.0.0.1:%d", n)); had != (n != 8006) {
			t.Errorf("port %d: had %t", n, had)
		}
	}
	if b.bind("tcp", "127.0.0.1:7000") {
		t.Error("the port that the endpoint had before was let go of")
	}
	if b.bind("udp", "127.0.0.1:8006") {
		t.Error("another endpoint did not get its port")
	}
	b.mustCheck(want, "port 8000-8009/tcp on every address held: want 10, got nothing")
	b.mustApply(nil, before)
}

func TestKernelPublishFindsWhatDiffersWithoutBeingTold(t *testing.T) {
	b := newBench(t)
	old, now := alone(t, port(spec.TCP, "", 8080, 2)), planned(t, map[spec.ID][]spec.Port{two: {port(spec.TCP, "", 9090, 1)}})
	b.mustApply(nil, old)
	b.mustCheck(now, "endpoint "+string(one)+" unplanned ports held: want nothing, got 2",
		"port 9090/tcp on every address held: want 1, got nothing")
}

func TestKernelPublishPassesAPortFromOneEndpointToAnother(t *testing.T) {
	b := newBench(t)
	wide, narrow := port(spec.TCP, "", 8080, 1), port(spec.TCP, "127.0.0.1", 8080, 1)
	at := func(id spec.ID, p spec.Port) *plan.Plan {
		return planned(t, map[spec.ID][]spec.Port{id: {p}})
	}
	have := at(one, wide)
	b.mustApply(nil, have)
	for _, want := range []*plan.Plan{at(two, wide), at(one, narrow), at(one, wide), at(two, narrow)} {
		b.mustApply(have, want)
		have = want
	}
}

func TestKernelPublishNamesTheLimitOfOpenFiles(t *testing.T) {
	b := newBench(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	b.host.Do(func() {
		low := unix.Rlimit{Cur: uint64(len(openFiles(t)) + 20), Max: old.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		err := b.Apply(b.Context(), nil, alone(t, port(spec.UDP, "", 8000, 100)))
		wantObject(t, err, unix.EMFILE)
		if want := fmt.Sprintf("ports held, of %d files that may be open", low.Cur); !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	})
}

func openFiles(t testing.TB) []os.DirEntry {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestKernelPublishLeavesNothingOpen(t *testing.T) {
	b := newBench(t)
	b.host.Serve("tcp", "127.0.0.1:8009")
	snapshot, files := b.host.Snapshot(), len(openFiles(t))
	fine := alone(t, port(spec.TCP, "", 7000, 10), port(spec.UDP, "", 7000, 10))
	for range 3 {
		b.mustApply(nil, fine)
		b.mustApply(nil, fine)
		b.mustApply(fine, fine)
		if got := len(openFiles(t)); got != files+20 {
			t.Errorf("%d files more are open, want 20", got-files)
		}
		if err := b.apply(fine, alone(t, port(spec.TCP, "", 8000, 10))); err == nil {
			t.Error("a taken port was had")
		}
	}
	b.mustApply(nil, fine)
	for range 2 {
		if err := b.Remove(b.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := len(openFiles(t)); got != files {
		t.Errorf("%d files more are open, want none", got-files)
	}
	if diff := snapshot.Diff(b.host.Snapshot()); diff != "" {
		t.Errorf("what is left:\n%s", diff)
	}
}

func TestKernelPublishWorksWithIPv6SwitchedOff(t *testing.T) {
	b := newBench(t)
	b.host.Set("net/ipv6/conf/all/disable_ipv6", "1")
	b.mustApply(nil, alone(t, port(spec.TCP, "", 8080, 1), port(spec.UDP, "", 8080, 1)))
	for _, network := range []string{"tcp", "udp"} {
		if b.bind(network, "127.0.0.1:8080") {
			t.Errorf("%s: somebody else had it", network)
		}
	}
}

func TestKernelPublishHoldsTenThousandPorts(t *testing.T) {
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const spare = 200
	count := uint16(min(10_000, limit.Cur-spare))
	b := newBench(t)
	want := alone(t, port(spec.UDP, "", 20_000, count))
	begin := time.Now()
	b.mustApply(nil, want)
	held := time.Since(begin)
	begin = time.Now()
	b.mustApply(want, plan.New(spec.State{}, &plan.Host{}))
	t.Logf("%d ports held in %v, let go of in %v", count, held, time.Since(begin))
}

// TestKernelPublishEndsTheSameByEveryWay walks through random plans and compares
// with what the kernel gives to others.
func TestKernelPublishEndsTheSameByEveryWay(t *testing.T) {
	b := newBench(t)
	hosts := []string{"", "0.0.0.0", "127.0.0.1", "::"}
	rapid.Check(t, func(r *rapid.T) {
		var have *plan.Plan
		for range rapid.IntRange(1, 5).Draw(r, "plans") {
			published := map[spec.ID][]spec.Port{}
			taken := map[string]bool{}
			for number := uint16(5001); number <= 5004; number++ {
				owner := rapid.SampledFrom([]spec.ID{"", one, two}).Draw(r, "owner")
				if owner == "" {
					continue
				}
				host := rapid.SampledFrom(hosts).Draw(r, "host")
				published[owner] = append(published[owner], port(spec.TCP, host, number, 1))
				taken[fmt.Sprintf("127.0.0.1:%d", number)] = host != "::"
				taken[fmt.Sprintf("[::1]:%d", number)] = host == "" || host == "::"
			}
			want := planned(t, published)
			if rapid.IntRange(0, 3).Draw(r, "look") == 0 {
				have = nil
			}
			b.mustApply(have, want)
			have = want
			for number := 5001; number <= 5004; number++ {
				for _, format := range []string{"127.0.0.1:%d", "[::1]:%d"} {
					if address := fmt.Sprintf(format, number); b.bind("tcp", address) == taken[address] {
						r.Errorf("%s: taken %t, want %t", address, !taken[address], taken[address])
					}
				}
			}
		}
	})
}
