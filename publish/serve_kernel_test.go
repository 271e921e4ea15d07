package publish_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/tree"
)

// The containers' addresses, which are the machine's own here.
var (
	inner4 = netip.MustParseAddr("172.30.0.11")
	inner6 = netip.MustParseAddr("fd00:30::11")
)

// servedRow says whom the proxy is to serve, and who then answers by IPv4, by IPv6, and
// by IPv6 where the client is link-local or asks ::1.
type servedRow struct {
	name             string
	proxy4, proxy6   plan.Proxy
	ipv4, ipv6, near string // a container's name, "" for nobody
}

func servedRows() []servedRow {
	return []servedRow{
		{"nobody", plan.Proxy{}, plan.Proxy{}, "", "", ""},
		{"near clients of a container with both families", plan.Proxy{}, plan.Proxy{To: inner6}, "", "", "six"},
		{"clients of IPv6 of a container without", plan.Proxy{}, plan.Proxy{To: inner4, All: true}, "", "four", "four"},
		{"everybody", plan.Proxy{To: inner4, All: true}, plan.Proxy{To: inner6, All: true}, "four", "six", "six"},
		{"near clients of a container without IPv6", plan.Proxy{}, plan.Proxy{To: inner4}, "", "", "four"},
		{"clients of IPv4", plan.Proxy{To: inner4, All: true}, plan.Proxy{}, "four", "", ""},
		{"nobody any more", plan.Proxy{}, plan.Proxy{}, "", "", ""},
	}
}

// nobody holds anything in this plan.
var nobody = plan.New(spec.State{}, &plan.Host{})

// serving is a plan of held8080 alone.
func serving(r servedRow) *plan.Plan { return planOf(held8080(r), &plan.Zone{}) }

// held8080 holds 8080 of both protocols and serves as a row says.
func held8080(r servedRow) *plan.Endpoint {
	e := &plan.Endpoint{ID: one}
	for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
		e.Ports = append(e.Ports, plan.Held{Port: spec.Port{Proto: proto, HostPort: 8080, ContainerPort: 80, Count: 1}, Proxy4: r.proxy4, Proxy6: r.proxy6})
	}
	return e
}

func planOf(e *plan.Endpoint, z *plan.Zone) *plan.Plan {
	var endpoints tree.Map[spec.ID, *plan.Endpoint]
	var networks tree.Map[spec.ID, *plan.Network]
	n := &plan.Network{ID: web, Zone: z, Endpoints: endpoints.With(e.ID, e)}
	return &plan.Plan{Networks: networks.With(web, n)}
}

func TestKernelPublishLetsInWhomTheProxyServesAndNobodyElse(t *testing.T) {
	l := lab.New(t)
	b := benchOn(t, l.Host)
	l.Host.Run("ip", "addr", "add", inner4.String(), "dev", "lo")
	l.Host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("four", inner4)
	b.container("six", inner6)

	asks := []struct {
		from    *lab.Host
		address string
		who     func(servedRow) string
	}{
		{l.Host, "127.0.0.1:8080", func(r servedRow) string { return r.ipv4 }},
		{l.Outside, "192.0.2.1:8080", func(r servedRow) string { return r.ipv4 }},
		{l.Host, "[2001:db8:1::1]:8080", func(r servedRow) string { return r.ipv6 }},
		{l.Outside, "[2001:db8:1::1]:8080", func(r servedRow) string { return r.ipv6 }},
		{l.Host, "[::1]:8080", func(r servedRow) string { return r.near }},
		{l.Outside, nearBy(l.Host, l.Outside) + ":8080", func(r servedRow) string { return r.near }},
	}
	var have *plan.Plan
	sockets := []string(nil)
	for _, row := range servedRows() {
		want := serving(row)
		b.mustApply(have, want)
		have = want
		if now := holding(t); sockets == nil {
			sockets = now
		} else if !slices.Equal(sockets, now) {
			t.Errorf("%s: the port was let go of for a moment", row.name)
		}
		var all sync.WaitGroup
		for _, ask := range asks {
			for _, network := range []string{"tcp", "udp"} {
				all.Go(func() { b.judge(row.name, ask.from, network, ask.address, ask.who(row)) })
			}
		}
		all.Wait()
	}
}

// judge wants an answer of somebody, or silence if that is nobody.
func (b *bench) judge(row string, from *lab.Host, network, address, want string) {
	wait, verdict := hello.Patience, hello.Accept
	if want == "" {
		wait, verdict = hello.Impatience, hello.Drop
	}
	answer, err := from.AskFor(network, address, wait)
	if hello.Judge(err) != verdict || answer.Server != want {
		b.Errorf("%s: %s/%s: want %s of %q, got %v, %v", row, address, network, verdict, want, answer, err)
	}
}

// container serves on port 80 of an address.
func (b *bench) container(name string, addr netip.Addr) {
	b.Helper()
	for _, network := range []string{"tcp", "udp"} {
		var server *hello.Server
		var err error
		b.host.Do(func() { server, err = hello.Serve(network, netip.AddrPortFrom(addr, 80).String(), name) })
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(server.Close)
		// An address is there before the route to it.
		lab.Until(b, name+" serves", func() error {
			_, err := b.host.Ask(network, netip.AddrPortFrom(addr, 80).String())
			return err
		})
	}
}

// nearBy is a machine's link-local address as another one writes it, e.g. [fe80::1%2].
// The index of an interface is no name that the test's own namespace may know.
func nearBy(to, from *lab.Host) string {
	address := strings.Fields(to.Run("ip", "-6", "-br", "addr", "show", "dev", "eth0", "scope", "link"))[2]
	index, _, _ := strings.Cut(from.Run("ip", "-o", "link", "show", "dev", "eth0"), ":")
	return "[" + netip.MustParsePrefix(address).Addr().String() + "%" + index + "]"
}

// holding are the sockets by which the layer and nobody else holds ports.
func holding(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, fd := range descriptors(t) {
		inode, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, inode)
	}
	return all
}

// descriptors are those of holding.
func descriptors(t testing.TB) []int {
	t.Helper()
	var all []int
	for _, f := range openFiles(t) {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		local, err := unix.Getsockname(fd)
		if err != nil {
			continue // no socket
		}
		if at, ok := local.(*unix.SockaddrInet6); ok && at.Port == 8080 && at.Addr == [16]byte{} {
			all = append(all, fd)
		}
	}
	return all
}

func TestKernelPublishServesNobodyInAnInternalNetwork(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner4.String(), "dev", "lo")
	b.container("four", inner4)
	client := netip.MustParseAddr("fd00:40::1")
	b.host.Run("ip", "addr", "add", client.String(), "dev", "lo", "nodad")
	b.container("client", client)
	row := servedRow{proxy6: plan.Proxy{To: inner4, All: true}}
	closed := &plan.Zone{Bridge: "dbr0", Internal: true, Subnets: []plan.Subnet{{Prefix: netip.MustParsePrefix("fd00:40::/64")}}}
	open := *closed
	open.Internal = false
	var have *plan.Plan
	for _, zone := range []*plan.Zone{&open, closed, &open} {
		want := planOf(held8080(row), zone)
		b.mustApply(have, want)
		have = want
		for _, network := range []string{"tcp", "udp"} {
			b.host.MustReach(network, "[::1]:8080", "four")
			if !zone.Internal {
				b.host.MustReach(network, "[fd00:40::1]:8080", "four")
			} else if answer, err := b.host.AskFor(network, "[fd00:40::1]:8080", hello.Impatience); err == nil {
				t.Errorf("an internal network was served over %s: %v", network, answer)
			}
		}
	}
}

// TestKernelPublishOn127IsForTheHostAlone has a neighbour send for 127.0.0.1 to a host
// whose interfaces let that in.
func TestKernelPublishOn127IsForTheHostAlone(t *testing.T) {
	l := lab.New(t)
	b := benchOn(t, l.Host)
	l.Host.Run("ip", "addr", "add", inner4.String(), "dev", "lo")
	b.container("four", inner4)
	l.Host.Set("net/ipv4/conf/all/route_localnet", "1")
	l.Neighbour.Set("net/ipv4/conf/all/route_localnet", "1")
	l.Neighbour.Run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	l.Neighbour.Run("ip", "route", "add", "127.0.0.0/8", "via", l.Host.Addr.String(), "src", l.Neighbour.Addr.String())
	l.Host.Serve("tcp", "127.0.0.1:7000")
	l.Neighbour.MustReach("tcp", "127.0.0.1:7000", "host")

	everywhere := held8080(servedRow{proxy4: plan.Proxy{To: inner4, All: true}})
	loopback := *everywhere
	loopback.Ports = slices.Clone(everywhere.Ports)
	for i := range loopback.Ports {
		loopback.Ports[i].Host = netip.MustParseAddr("127.0.0.1")
	}
	var have *plan.Plan
	for _, e := range []*plan.Endpoint{&loopback, everywhere} {
		want := planOf(e, &plan.Zone{})
		b.mustApply(have, want)
		have = want
		var all sync.WaitGroup
		for _, network := range []string{"tcp", "udp"} {
			all.Go(func() { b.judge("the host", b.host, network, "127.0.0.1:8080", "four") })
			all.Go(func() { b.judge("a neighbour", l.Neighbour, network, "127.0.0.1:8080", "") })
		}
		all.Wait()
	}
	l.Neighbour.MustReach("tcp", "192.0.2.1:8080", "four")
}

func TestKernelPublishEndsWhatItServedWithThePort(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("six", inner6)
	want := serving(servedRow{proxy6: plan.Proxy{To: inner6}})
	b.mustApply(nil, want)
	conn := b.host.Dial("tcp", "[::1]:8080")
	if _, err := conn.Ask(hello.Patience); err != nil {
		t.Fatal(err)
	}
	b.mustApply(want, nobody)
	if answer, err := conn.Ask(hello.Patience); err == nil {
		t.Errorf("the connection lives on: %v", answer)
	}
}

// TestKernelPublishServesAgainAfterAFilterFailed locks the filters, so that they cannot be
// changed: neither may the layer take for done what was not, nor the proxy take the next
// sockets for these, whose numbers they get.
func TestKernelPublishServesAgainAfterAFilterFailed(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("six", inner6)
	none, served := serving(servedRow{}), serving(servedRow{proxy6: plan.Proxy{To: inner6}})
	for _, change := range [][2]*plan.Plan{{none, served}, {served, none}} {
		b.mustApply(nil, change[0])
		for _, fd := range descriptors(t) {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1); err != nil {
				t.Fatal(err)
			}
		}
		wantObject(t, b.apply(nil, change[1]), unix.EPERM)
		for _, want := range change {
			b.host.Do(func() {
				if drift, err := b.Check(b.Context(), want); err != nil || len(drift) == 0 {
					t.Errorf("what is not known is taken for what is planned: %v", err)
				}
			})
		}
		b.mustApply(nil, nobody)
		b.mustApply(nil, served)
		for _, network := range []string{"tcp", "udp"} {
			b.host.MustReach(network, "[::1]:8080", "six")
		}
		b.mustApply(nil, nobody)
	}
}

func TestKernelPublishHoldsAPortAgainWhoseConnectionsWeClosed(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("six", inner6)
	var hangsUp net.Listener
	var err error
	b.host.Do(func() { hangsUp, err = net.Listen("tcp", netip.AddrPortFrom(inner6, 81).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer hangsUp.Close()
	go func() {
		for {
			conn, err := hangsUp.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	want := planOf(&plan.Endpoint{ID: one, Ports: []plan.Held{
		{Port: spec.Port{Proto: spec.TCP, HostPort: 8080, ContainerPort: 81, Count: 1}, Proxy6: plan.Proxy{To: inner6}},
	}}, &plan.Zone{})
	for range 3 {
		b.mustApply(nil, want)
		b.host.Do(func() {
			conn, err := net.Dial("tcp", "[::1]:8080")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the container should hang up: %v", err)
			}
		})
		lab.Until(t, "our side has closed first, and the kernel remembers it", func() error {
			if out := b.host.Run("ss", "-Htan", "state", "time-wait", "sport", "=", ":8080"); out == "" {
				return errors.New("not yet")
			}
			return nil
		})
		if err := b.Remove(b.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKernelPublishFiltersSocketsOfOneFamily is about those that are bound to an address.
func TestKernelPublishFiltersSocketsOfOneFamily(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner4.String(), "dev", "lo")
	b.container("four", inner4)
	everybody := plan.Proxy{To: inner4, All: true}
	var ports []plan.Held
	for number, at := range map[uint16]struct {
		host           string
		proxy4, proxy6 plan.Proxy
	}{
		8080: {"0.0.0.0", everybody, plan.Proxy{}},
		8081: {"127.0.0.1", everybody, plan.Proxy{}},
		8082: {"::", plan.Proxy{}, everybody},
		8083: {"::1", plan.Proxy{}, plan.Proxy{To: inner4}},
		8084: {"127.0.0.1", plan.Proxy{}, plan.Proxy{}},
	} {
		for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
			p := spec.Port{Proto: proto, Host: netip.MustParseAddr(at.host), HostPort: number, ContainerPort: 80, Count: 1}
			ports = append(ports, plan.Held{Port: p, Proxy4: at.proxy4, Proxy6: at.proxy6})
		}
	}
	b.mustApply(nil, planOf(&plan.Endpoint{ID: one, Ports: ports}, &plan.Zone{}))
	for address, want := range map[string]string{
		"127.0.0.1:8080": "four", "127.0.0.1:8081": "four", "[::1]:8082": "four", "[::1]:8083": "four", "127.0.0.1:8084": "",
	} {
		for _, network := range []string{"tcp", "udp"} {
			b.judge("of one family", b.host, network, address, want)
		}
	}
}
