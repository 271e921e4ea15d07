package firewalltest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// Market has ports change hands at random, by the layers that hold, serve and translate
// them, and asks after each change who gets a packet: those whom plan.Trace names, and
// nobody else. It takes a quarter of a minute, or with DRAWBRIDGE_SOAK five.
func Market(t *testing.T, b Backend) {
	t.Helper()
	m := newMarket(t, b)
	closes := time.Now().Add(15 * time.Second)
	if soak() {
		closes = time.Now().Add(5 * time.Minute)
	}
	rapid.Check(t, func(rt *rapid.T) {
		if time.Now().After(closes) && !m.failed {
			return // what has failed is looked into for as long as it takes
		}
		m.failed = true
		m.clear(rt)
		for range rapid.IntRange(1, 4).Draw(rt, "changes") {
			m.change(rt)
			m.ask(rt)
		}
		m.failed = false
	})
	if m.asked[hello.Accept] == 0 || m.asked[hello.Refuse] == 0 || m.asked[hello.Drop] == 0 {
		t.Errorf("not every fate was met: %v", m.asked)
	}
	t.Logf("asked %v", m.asked)
}

// market is a town with three containers that publish, on two networks, and a fourth in an
// internal one.
type market struct {
	*scene.Town
	layers  []Applier
	state   spec.State
	plan    *plan.Plan
	host    *plan.Host
	sellers []seller
	clients []client

	failed bool // until a round is over
	asked  map[hello.Verdict]int
}

// seller is an endpoint that publishes.
type seller struct {
	name              string
	network, endpoint spec.ID
}

// GoString is how rapid names it.
func (s seller) GoString() string { return s.name }

// client is where questions come from.
type client struct {
	name  string
	at    *lab.Host
	in    string                      // the interface by which its packets enter
	from  func(netip.Addr) netip.Addr // whom its kernel makes it be
	knows []string                    // addresses of the host
}

// GoString is how rapid names it.
func (c client) GoString() string { return c.name }

// The ports of the market. Whoever sells leads to ports of a container that may be others.
const (
	firstPort, lastPort = 7000, 7015
	mostShift           = 3
	mostPorts           = 4
)

func newMarket(t *testing.T, b Backend) *market {
	t.Helper()
	w := scene.NewWorld(t)
	w.Host.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}
	w.Host.NoFirewall = b.Name == None
	w.Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
		Network("1", spec.Network{Internal: true}, "172.30.2.0/24", "fd00:32::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64").
		Endpoint("a", "f", "172.30.0.3/24", "fd00:30::3/64").
		Endpoint("b", "7", "172.30.1.2/24", "").
		Endpoint("1", "8", "172.30.2.2/24", "fd00:32::2/64")
	m := &market{state: w.State, plan: plan.New(w.State, &w.Host), host: &w.Host, asked: map[hello.Verdict]int{}}
	m.Town = scene.Settle(t, m.plan, func(h *lab.Host) { m.layers = []Applier{holder(t, h), b.Layer(t, h)}; m.apply(t, h, nil) })
	for _, key := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		m.Host.Set(key, "0") // refusals of UDP are counted
	}
	m.sellers = []seller{
		{"a1", scene.ID("a"), scene.ID("e")}, {"a2", scene.ID("a"), scene.ID("f")}, {"b1", scene.ID("b"), scene.ID("7")},
	}
	a1 := m.stall("a1", "a", "172.30.0.2/24", "fd00:30::2/64")
	m.stall("a2", "a", "172.30.0.3/24", "fd00:30::3/64")
	b1 := m.stall("b1", "b", "172.30.1.2/24")
	internal := m.Container("c1", scene.Bridge("1"), "172.30.2.2/24", "fd00:32::2/64")
	uplink, bridge, shut := m.linkLocal(m.Host, "eth0"), m.linkLocal(m.Host, scene.Bridge("a")), m.linkLocal(m.Host, scene.Bridge("1"))
	m.clients = []client{
		{"the host", m.Host, "", itself, []string{"127.0.0.1", "127.0.0.2", "::1", "192.0.2.1", "2001:db8:1::1", "172.30.0.1", "172.30.1.1", "fd00:30::1"}},
		{"outside", m.Outside, "eth0", oneOf("192.0.2.2", "2001:db8:1::2"), []string{"192.0.2.1", "2001:db8:1::1", m.zoned(uplink, m.Outside)}},
		{"a1", a1, scene.Bridge("a"), oneOf("172.30.0.2", "fd00:30::2"), []string{"192.0.2.1", "2001:db8:1::1", "172.30.0.1", "172.30.1.1", "fd00:30::1", m.zoned(bridge, a1)}},
		{"b1", b1, scene.Bridge("b"), oneOf("172.30.1.2", ""), []string{"192.0.2.1", "172.30.0.1", "172.30.1.1"}},
		{"internal", internal, scene.Bridge("1"), oneOf("172.30.2.2", "fd00:32::2"), []string{"192.0.2.1", "2001:db8:1::1", "172.30.2.1", m.zoned(shut, internal)}},
	}
	return m
}

// holder is the layer that holds ports on a host, with the proxy that serves there.
func holder(t *testing.T, h *lab.Host) Applier {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	internal := &publish.Internal{}
	p, err := proxy.New(log, proxy.Options{
		Refuse: func(client netip.AddrPort, ifindex int) (refused bool) {
			h.Do(func() { refused = internal.Has(client, ifindex) })
			return refused
		},
		Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			h.Do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
			return conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ports := publish.New(p, internal)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := ports.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		stop()
		running.Wait()
	})
	return ports
}

// stall is a container that answers on every port that may lead to it.
func (m *market) stall(name, network string, addresses ...string) *lab.Host {
	h := m.Container(name, scene.Bridge(network), addresses...)
	for port := firstPort; port <= lastPort+mostShift; port++ {
		for _, proto := range []string{"tcp", "udp"} {
			scene.Serve(m.T, h, fmt.Sprintf("%s:%d", name, port), fmt.Sprintf("%s [::]:%d", proto, port))
		}
	}
	return h
}

// itself is the host's source for what it asks of itself.
func itself(to netip.Addr) netip.Addr {
	if to.Is4() && to.IsLoopback() {
		return netip.MustParseAddr("127.0.0.1")
	}
	return to
}

// oneOf chooses a source by the family of whom it asks; there may be none.
func oneOf(ipv4, ipv6 string) func(netip.Addr) netip.Addr {
	return func(to netip.Addr) netip.Addr {
		switch {
		case to.Is4():
			return netip.MustParseAddr(ipv4)
		case to.IsLinkLocalUnicast():
			return netip.MustParseAddr("fe80::9") // whichever
		}
		return netip.MustParseAddr(ipv6)
	}
}

// linkLocal is an address of a machine's link.
func (m *market) linkLocal(h *lab.Host, link string) netip.Addr {
	m.T.Helper()
	for field := range strings.FieldsSeq(h.Run("ip", "-6", "-o", "addr", "show", "dev", link, "scope", "link")) {
		if p, err := netip.ParsePrefix(field); err == nil {
			return p.Addr()
		}
	}
	m.T.Fatalf("%s has no link-local address", link)
	return netip.Addr{}
}

// zoned is a link-local address for whoever asks by his eth0: by its number, since names
// are kept for all namespaces at once.
func (m *market) zoned(a netip.Addr, client *lab.Host) string {
	m.T.Helper()
	return fmt.Sprintf("%s%%%d", a, device(m.T, client, "eth0").Index)
}

// apply makes a host match the plan.
func (m *market) apply(t rapid.TB, h *lab.Host, have *plan.Plan) {
	t.Helper()
	for _, l := range m.layers {
		var err error
		h.Do(func() { err = l.Apply(context.Background(), have, m.plan) })
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// clear has nobody publish anything, so that a round depends on no other.
func (m *market) clear(rt *rapid.T) {
	before := m.state
	for _, s := range m.sellers {
		if err := m.state.Publish(s.network, s.endpoint, nil, false); err != nil {
			rt.Fatal(err)
		}
	}
	m.settle(rt, before)
}

// change has somebody publish other ports than before. What another one has is refused,
// which is as good.
func (m *market) change(rt *rapid.T) {
	s := rapid.SampledFrom(m.sellers).Draw(rt, "endpoint")
	ports := rapid.SliceOfN(rapid.Custom(drawPort), 0, 3).Draw(rt, "ports")
	before := m.state
	if err := m.state.Publish(s.network, s.endpoint, ports, false); err != nil {
		m.state = before
		return
	}
	m.settle(rt, before)
}

// settle makes the host match a state that was another one before.
func (m *market) settle(rt *rapid.T, before spec.State) {
	have := m.plan
	m.plan = have.Next(before, m.state, m.host)
	m.apply(rt, m.Host, have)
	// A question may come from where another one came from, of which there is memory.
	m.Host.Run("conntrack", "-F")
}

func drawPort(rt *rapid.T) spec.Port {
	p := spec.Port{Proto: rapid.SampledFrom([]spec.Proto{spec.TCP, spec.UDP}).Draw(rt, "protocol")}
	host := rapid.SampledFrom([]string{"", "", "0.0.0.0", "::", "127.0.0.1", "127.0.0.2", "::1", "192.0.2.1", "2001:db8:1::1"}).Draw(rt, "host")
	if host != "" {
		p.Host = netip.MustParseAddr(host)
	}
	p.Count = uint16(rapid.IntRange(1, mostPorts).Draw(rt, "count"))
	p.HostPort = uint16(rapid.IntRange(firstPort, lastPort-mostPorts+1).Draw(rt, "port"))
	p.ContainerPort = p.HostPort + rapid.SampledFrom([]uint16{0, mostShift}).Draw(rt, "shift")
	return p
}

// questionsAtOnce are put after each change: it takes no longer than one.
const questionsAtOnce = 32

// inquiry is one question.
type inquiry struct {
	client client
	proto  spec.Proto
	to     string // with its zone
	port   uint16
}

func (q inquiry) String() string {
	return fmt.Sprintf("%s asks %s/%s", q.client.name, net.JoinHostPort(q.to, fmt.Sprint(q.port)), q.proto)
}

// ask puts questions, two in three of them for ports that are published.
func (m *market) ask(rt *rapid.T) {
	var all []inquiry
	published := m.published()
	for range questionsAtOnce {
		q := inquiry{client: rapid.SampledFrom(m.clients).Draw(rt, "client")}
		q.to = rapid.SampledFrom(q.client.knows).Draw(rt, "address")
		q.proto = rapid.SampledFrom([]spec.Proto{spec.TCP, spec.UDP}).Draw(rt, "protocol")
		q.port = uint16(rapid.IntRange(firstPort, lastPort).Draw(rt, "port"))
		if len(published) > 0 && rapid.IntRange(0, 2).Draw(rt, "published") > 0 {
			p := rapid.SampledFrom(published).Draw(rt, "of")
			q.proto, q.port = p.Proto, p.HostPort+q.port%p.Count
		}
		all = append(all, q)
	}
	wrong := make([]string, len(all))
	var asking sync.WaitGroup
	for i, q := range all {
		fate := m.trace(q)
		m.asked[verdict(fate)]++
		asking.Go(func() { wrong[i] = q.put(fate) })
	}
	asking.Wait()
	if wrong = slices.DeleteFunc(wrong, func(s string) bool { return s == "" }); len(wrong) > 0 {
		rt.Fatalf("published: %v\n%s", published, strings.Join(wrong, "\n"))
	}
}

func (m *market) published() []spec.Port {
	var all []spec.Port
	for _, s := range m.sellers {
		_, e, err := m.state.Endpoint(s.network, s.endpoint)
		if err != nil {
			m.T.Fatal(err)
		}
		all = append(all, e.Ports...)
	}
	return all
}

func (m *market) trace(q inquiry) plan.Fate {
	to := netip.MustParseAddr(q.to).WithZone("")
	return m.plan.Trace(plan.Flow{In: q.client.in, Proto: q.proto, From: q.client.from(to), To: netip.AddrPortFrom(to, q.port)})
}

// verdict is what a client notices of a fate. On the host nobody listens.
func verdict(f plan.Fate) hello.Verdict {
	switch {
	case f.Dropped:
		return hello.Drop
	case sellerAt(f.Server.Addr()) == "":
		return hello.Refuse
	}
	return hello.Accept
}

// put asks by a packet, and says what is otherwise than the plan has it.
func (q inquiry) put(fate plan.Fate) string {
	want, wait := verdict(fate), 4*hello.Patience
	if want == hello.Drop {
		wait = hello.Impatience
	}
	answer, err := q.client.at.AskFor(q.proto.String(), net.JoinHostPort(q.to, fmt.Sprint(q.port)), wait)
	got := hello.Judge(err)
	server := fmt.Sprintf("%s:%d", sellerAt(fate.Server.Addr()), fate.Server.Port())
	switch {
	case got == hello.Refuse && want == hello.Drop && fate.Foreign:
		return "" // the proxy resets whom it does not serve
	case got != want:
	case want != hello.Accept:
		return ""
	case answer.Server == server && answer.Client.Addr().Unmap() == fate.Client:
		return ""
	}
	return fmt.Sprintf("%s: want %s %s %s (%s), got %s %v %v", q, want, server, fate.Client, fate.Why, got, answer, err)
}

// sellerAt is whose address it is; "" for one of nobody who sells.
func sellerAt(a netip.Addr) string {
	return map[string]string{"172.30.0.2": "a1", "fd00:30::2": "a1", "172.30.0.3": "a2", "fd00:30::3": "a2", "172.30.1.2": "b1"}[a.String()]
}
