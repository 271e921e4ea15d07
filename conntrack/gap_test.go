package conntrack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// routesOf is where a host's routes lead: to the bridges of a plan and of its engines, and
// to eth0.
func routesOf(p *plan.Plan) exit {
	return func(_ string, _, to netip.Addr) string {
		g := newGap(p, nil)
		switch a, ours := g.of(to); {
		case to.IsMulticast(), to.IsLoopback(), g.local[to], to == netip.MustParseAddr("192.0.2.200"): // the last one is new
			return ""
		case ours:
			return a.Bridge.Name
		case to == netip.MustParseAddr("10.9.0.1"): // behind a container that is a router
			return "dbraaaaaaaaaaaa"
		case g.engineOf(to) != "":
			return g.engineOf(to)
		}
		return "eth0"
	}
}

// TestOnlyWhatAGapLetPassIsStale judges entries of networks that are hidden (a), hidden
// behind a chosen address (b), internal (c), kept apart (d), closed to nobody (e), routed
// (f), and on a bridge that was there before (0).
func TestOnlyWhatAGapLetPassIsStale(t *testing.T) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{Masquerade: true}, "172.30.1.0/24", "fd00:30:1::/64").
		Network("b", spec.Network{Masquerade: true, Source4: netip.MustParseAddr("192.0.2.7")}, "172.30.2.0/24").
		Network("c", spec.Network{Internal: true, Masquerade: true}, "172.30.3.0/24").
		Network("d", spec.Network{Masquerade: true, Apart: true}, "172.30.4.0/24").
		Network("e", spec.Network{Masquerade: true, Mode4: spec.Unprotected}, "172.30.5.0/24").
		Network("f", spec.Network{Masquerade: true, Mode4: spec.Routed, Trusted: []string{"wg0"}}, "172.30.6.0/24").
		Network("0", spec.Network{Masquerade: true, Bridge: "br-lan"}, "172.30.7.0/24").
		Endpoint("a", "1", "172.30.1.2/24", "fd00:30:1::2/64", scene.UDP("", 53, 53, 1)).
		Endpoint("b", "2", "172.30.2.2/24", "").
		Endpoint("c", "3", "172.30.3.2/24", "").
		Endpoint("d", "4", "172.30.4.2/24", "").
		Endpoint("d", "5", "172.30.4.3/24", "").
		Endpoint("e", "6", "172.30.5.2/24", "").
		Endpoint("0", "8", "172.30.7.2/24", "")
	if err := w.State.AddEndpoint(scene.ID("f"), &spec.Endpoint{
		ID: scene.ID("7"), IPv4: netip.MustParsePrefix("172.30.6.2/24"), Open: []spec.Port{scene.UDP("", 0, 53, 1), scene.TCP("", 0, 53, 1)},
	}); err != nil {
		t.Fatal(err)
	}
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	w.Host.Addresses = []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.7")}
	g := newGap(w.Plan(), routesOf(w.Plan()))
	const (
		always  = "always"
		renewed = "unless it is an answered connection" // of TCP
		never   = "never"
		world   = "198.51.100.1:53"
	)
	for _, c := range []struct {
		what                         string
		client, asked, server, shown string // server and shown are asked and client if ""
		stale                        string
	}{
		{"out with its own address", "172.30.1.2:1000", world, "", "", always},
		{"out with its own address of IPv6", "[fd00:30:1::2]:1000", "[2001:db8:2::1]:53", "", "", always},
		{"out with an address that is no container's", "172.30.1.99:1000", world, "", "", always},
		{"out by the host's address", "172.30.1.2:1000", world, "", "192.0.2.1:1000", never},
		{"out by an address that an administrator chose", "172.30.1.2:1000", world, "", "203.0.113.1:1000", never},
		{"out, led elsewhere by an administrator", "172.30.1.2:1000", world, "203.0.113.1:53", "192.0.2.1:1000", never},
		{"the same with its own address", "172.30.1.2:1000", world, "10.0.0.1:53", "", never},
		{"to a router that is a container", "172.30.1.2:1000", "10.9.0.1:53", "", "", never},
		{"to all who listen", "172.30.1.2:5353", "224.0.0.251:5353", "", "", never},
		{"to the host", "172.30.1.2:1000", "192.0.2.1:22", "", "", never},
		{"to the gateway", "172.30.1.2:1000", "172.30.1.1:53", "", "", never},
		{"to an address that the host has just got", "172.30.1.2:1000", "192.0.2.200:53", "", "", never},
		{"to all of the network", "172.30.1.2:1000", "172.30.1.255:53", "", "", never},
		{"the host by its bridge", "172.30.1.1:1000", world, "", "", never},
		{"by the chosen address", "172.30.2.2:1000", world, "", "192.0.2.7:1000", never},
		{"by another of the host's than the chosen one", "172.30.2.2:1000", world, "", "192.0.2.1:1000", renewed},
		{"by an address that an administrator prefers to the chosen one", "172.30.2.2:1000", world, "", "203.0.113.1:1000", never},
		{"with its own instead of the chosen one", "172.30.2.2:1000", world, "", "", always},
		{"a machine at a bridge that is adopted", "172.30.7.9:1000", world, "", "", never},
		{"a container at a bridge that is adopted", "172.30.7.2:1000", world, "", "", always},
		{"out of a routed network", "172.30.6.2:1000", world, "", "", never},
		{"out of an internal network", "172.30.3.2:1000", world, "", "", always},
		{"out of one, hidden", "172.30.3.2:1000", world, "", "192.0.2.1:1000", always},
		{"of an internal network to the host", "172.30.3.2:1000", "192.0.2.1:22", "", "", never},
		{"within an internal network", "172.30.3.2:1000", "172.30.3.3:53", "", "", never},
		{"into an internal network", "192.0.2.9:1000", "172.30.3.2:53", "", "", always},
		{"the host into an internal network", "192.0.2.1:1000", "172.30.3.2:53", "", "", never},
		{"into a closed network", "192.0.2.9:1000", "172.30.1.2:53", "", "", always},
		{"the host into a closed network", "172.30.1.1:1000", "172.30.1.2:53", "", "", never},
		{"the host by an address that it has just got", "192.0.2.200:1000", "172.30.1.2:53", "", "", never},
		{"to a published port", "192.0.2.9:1000", "192.0.2.1:53", "172.30.1.2:53", "", never},
		{"from network to network", "172.30.2.2:1000", "172.30.1.2:53", "", "", always},
		{"from network to network, hidden", "172.30.2.2:1000", "172.30.1.2:53", "", "192.0.2.1:1000", always},
		{"to an open one", "172.30.1.2:1000", "172.30.5.2:53", "", "", never},
		{"to an open one, hidden on the way", "172.30.1.2:1000", "172.30.5.2:53", "", "192.0.2.1:1000", renewed},
		{"to a routed one's open port", "172.30.1.2:1000", "172.30.6.2:53", "", "", never},
		{"to a routed one's closed port", "172.30.1.2:1000", "172.30.6.2:54", "", "", always},
		{"from an engine's network to a container's own address", "172.17.0.2:1000", "172.30.1.2:53", "", "", always},
		{"to an engine's container", "172.30.1.2:1000", "172.17.0.2:53", "", "", always},
		{"to an engine's container by what it publishes", "172.30.1.2:1000", "192.0.2.1:5300", "172.17.0.2:53", "192.0.2.1:1000", never},
		{"to an engine's gateway", "172.30.1.2:1000", "172.17.0.1:53", "", "", never},
		{"containers of one network", "172.30.1.2:1000", "172.30.1.3:53", "", "", never},
		{"containers that are kept apart", "172.30.4.2:1000", "172.30.4.3:53", "", "", always},
		{"published to one that is kept apart", "172.30.4.2:1000", "192.0.2.1:54", "172.30.4.3:53", "172.30.4.1:1000", never},
		{"published to a peer, who sees the gateway", "172.30.1.3:1000", "192.0.2.1:53", "172.30.1.2:53", "172.30.1.1:1000", never},
		{"published to a peer, who sees its peer", "172.30.1.3:1000", "192.0.2.1:53", "172.30.1.2:53", "", renewed},
		{"published to another network", "172.30.2.2:1000", "192.0.2.1:53", "172.30.1.2:53", "", never},
		{"published to another network, hidden on the way", "172.30.2.2:1000", "192.0.2.1:53", "172.30.1.2:53", "192.0.2.7:1000", renewed},
		{"published, by the loopback", "127.0.0.1:1000", "127.0.0.1:53", "172.30.1.2:53", "172.30.1.1:1000", never},
		{"published, with the loopback's address", "127.0.0.1:1000", "127.0.0.1:53", "172.30.1.2:53", "", renewed},
		{"published, from the bridge itself", "172.30.1.1:1000", "172.30.1.1:53", "172.30.1.2:53", "", never},
		{"not ours", "192.0.2.9:1000", "203.0.113.1:53", "", "", never},
		{"an engine's", "172.17.0.2:1000", world, "", "", never},
	} {
		e := entry{client: netip.MustParseAddrPort(c.client), asked: netip.MustParseAddrPort(c.asked)}
		e.family, e.server, e.shown = family(e.client.Addr()), e.asked, e.client
		if c.server != "" {
			e.server = netip.MustParseAddrPort(c.server)
		}
		if c.shown != "" {
			e.shown = netip.MustParseAddrPort(c.shown)
		}
		for _, e.proto = range []spec.Proto{spec.UDP, spec.TCP} {
			for _, e.answered = range []bool{false, true} {
				want := c.stale == always || c.stale == renewed && !e.kept()
				if got := g.stale(e); got != want {
					t.Errorf("%s (%s, answered %t): stale is %t, want %t", c.what, e.proto, e.answered, got, want)
				}
			}
		}
		e.expected = true
		if g.stale(e) {
			t.Errorf("%s, but expected by another connection: want it not stale", c.what)
		}
	}
}

func TestPingsOfARoutedNetworkAreNotStale(t *testing.T) {
	w := scene.NewWorld(t).
		Network("f", spec.Network{Mode4: spec.Routed, Mode6: spec.Routed}, "172.30.6.0/24", "fd00:30:6::/64").
		Endpoint("f", "7", "172.30.6.2/24", "fd00:30:6::2/64")
	g := newGap(w.Plan(), routesOf(w.Plan()))
	for _, c := range []struct {
		client, asked string
		proto         spec.Proto
		stale         bool
	}{
		{"192.0.2.9:0", "172.30.6.2:0", unix.IPPROTO_ICMP, false},
		{"192.0.2.9:0", "172.30.6.2:0", unix.IPPROTO_ICMPV6, true},
		{"[2001:db8::9]:0", "[fd00:30:6::2]:0", unix.IPPROTO_ICMPV6, false},
		{"[2001:db8::9]:0", "[fd00:30:6::2]:0", unix.IPPROTO_ICMP, true},
	} {
		e := entry{proto: c.proto, client: netip.MustParseAddrPort(c.client), asked: netip.MustParseAddrPort(c.asked)}
		e.family, e.server, e.shown = family(e.client.Addr()), e.asked, e.client
		if got := g.stale(e); got != c.stale {
			t.Errorf("%s to %s, protocol %d: stale is %t, want %t", c.client, c.asked, c.proto, got, c.stale)
		}
	}
}

// TestWhatTheTraceSaysIsNeverStale has random plans say what becomes of random
// connections. An entry that is so stays; one that passed as if there were no rules goes.
func TestWhatTheTraceSaysIsNeverStale(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := withAddresses(scene.RandomPlan(rt))
		r, g := review{plan: p, want: newLedger(published(p))}, newGap(p, routesOf(p))
		for range 100 {
			f := drawFlow(rt, p)
			fate := p.Trace(f)
			e := entry{
				family: family(f.From), proto: f.Proto, client: netip.AddrPortFrom(f.From, 40000), asked: f.To,
				server: f.To, answered: rapid.Bool().Draw(rt, "answered"),
			}
			e.shown = e.client
			bare := e
			switch {
			case f.From.Is4() != f.To.Addr().Is4(), fate.Foreign, fate.Proxied:
				continue // there is none, or it is the host's own
			case fate.Dropped:
				_, from := g.of(f.From)
				_, to := g.of(f.To.Addr())
				// A published port is the review's, and led to nobody.
				if ours := from || to; ours && !g.stale(e) && !r.local(f.To.Addr()) && !isTrusted(p, f) {
					rt.Fatalf("%+v: %+v: an entry, answered %t, is not stale", f, fate, e.answered)
				}
				continue
			}
			e.server, e.shown = fate.Server, netip.AddrPortFrom(fate.Client, 40000)
			if !fate.Client.IsValid() {
				e.shown = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), 40000) // some interface's
			}
			if r.stale(e) || g.stale(e) {
				rt.Fatalf("%+v: %+v: %+v is stale, by its port %t", f, fate, e, r.stale(e))
			}
			bare.server = e.server
			if leaves := e.server == e.asked; bare.shown != e.shown && (leaves || !bare.kept()) && !g.stale(bare) {
				rt.Fatalf("%+v: %+v: an entry that does not hide who asks is not stale", f, fate)
			}
		}
	})
}

// withAddresses is a plan whose host and bridges have addresses.
func withAddresses(drawn *plan.Plan) *plan.Plan {
	host, p := *drawn.Host, *drawn
	host.Addresses = []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}
	p.Host = &host
	for id, n := range drawn.Networks.All() {
		network, bridge := *n, *n.Bridge
		network.Bridge = &bridge
		for _, s := range n.Zone.Subnets {
			bridge.Addresses = append(bridge.Addresses, netip.PrefixFrom(s.Prefix.Addr().Next(), s.Prefix.Bits()))
		}
		p.Networks = p.Networks.With(id, &network)
	}
	return &p
}

// isTrusted reports whether what was dropped would have been let in by an interface that
// the network trusts, which an entry does not tell.
func isTrusted(p *plan.Plan, f plan.Flow) bool {
	for _, n := range p.Networks.All() {
		for _, f.In = range n.Zone.Trusted {
			if !p.Trace(f).Dropped {
				return true
			}
		}
	}
	return false
}

// drawFlow draws a connection in which a container has a part, by its own address or not.
func drawFlow(rt *rapid.T, p *plan.Plan) plan.Flow {
	type end struct {
		in   string
		addr netip.Addr
	}
	from := []end{{"", netip.MustParseAddr("192.0.2.1")}, {"eth0", netip.MustParseAddr("198.51.100.9")}, {"eth0", netip.MustParseAddr("2001:db8:2::9")}}
	to := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:2::1")}
	for _, l := range p.Host.Engines {
		engine := l.Subnets[0].Addr().Next().Next()
		from, to = append(from, end{l.Name, engine}), append(to, engine)
	}
	for _, n := range p.Networks.All() {
		for _, a := range n.Bridge.Addresses {
			from, to = append(from, end{"", a.Addr()}), append(to, a.Addr())
		}
		for _, e := range n.Endpoints.All() {
			for _, a := range e.Addresses {
				from, to = append(from, end{n.Bridge.Name, a}), append(to, a)
			}
		}
	}
	f := plan.Flow{
		Proto: rapid.SampledFrom([]spec.Proto{spec.TCP, spec.UDP, spec.SCTP}).Draw(rt, "protocol"),
		To:    netip.AddrPortFrom(rapid.SampledFrom(to).Draw(rt, "to"), uint16(rapid.SampledFrom([]int{80, 82, 1000, 1003, 1008}).Draw(rt, "port"))),
	}
	who := rapid.SampledFrom(from).Draw(rt, "from")
	f.In, f.From = who.in, who.addr
	return f
}
