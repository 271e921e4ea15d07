package conntrack

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestOnlyWhatAMappingWouldLeadElsewhereIsStale judges entries by a plan in which a port
// of all addresses, a shifted range and a port of one address lead to containers, and one
// more port has just been revoked.
func TestOnlyWhatAMappingWouldLeadElsewhereIsStale(t *testing.T) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{}, "172.30.1.0/24", "fd00:30:1::/64").
		Endpoint("a", "b", "172.30.1.2/24", "fd00:30:1::2/64",
			scene.UDP("", 53, 5353, 1), scene.TCP("", 8000, 9000, 10), scene.UDP("192.0.2.1", 99, 99, 1)).
		Endpoint("a", "c", "172.30.1.3/24", "fd00:30:1::3/64")
	w.Host.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8:1::1")}
	p := w.Plan()
	r := review{plan: p, want: newLedger(published(p)), gone: newLedger([]plan.Mapping{
		{Proto: spec.UDP, Host: netip.IPv4Unspecified(), First: 70, Last: 79, To: netip.MustParseAddr("172.30.1.3"), ToPort: 170},
		{Proto: spec.UDP, Host: netip.IPv4Unspecified(), First: 53, Last: 53, To: netip.MustParseAddr("172.30.1.3"), ToPort: 53},
	})}
	const other4, other6 = "198.51.100.2:1000", "[2001:db8:2::2]:1000"
	for _, c := range []struct {
		what                  string
		proto                 spec.Proto
		client, asked, server string
		answered, stale       bool
	}{
		{"a datagram that came before the port was published", spec.UDP, other4, "192.0.2.1:53", "192.0.2.1:53", false, true},
		{"one that was answered by whoever was there", spec.UDP, other4, "192.0.2.1:53", "192.0.2.1:53", true, true},
		{"one of IPv6", spec.UDP, other6, "[2001:db8:1::1]:53", "[2001:db8:1::1]:53", false, true},
		{"to the bridge", spec.UDP, "172.30.1.3:1000", "172.30.1.1:53", "172.30.1.1:53", false, true},
		{"to the loopback", spec.UDP, "127.0.0.1:1000", "127.0.0.53:53", "127.0.0.53:53", false, true},
		{"led to where it should be", spec.UDP, other4, "192.0.2.1:53", "172.30.1.2:5353", true, false},
		{"led to who had the port before", spec.UDP, other4, "192.0.2.1:53", "172.30.1.3:53", true, true},
		{"led to another port of the right one", spec.UDP, other4, "192.0.2.1:53", "172.30.1.2:53", true, true},
		{"led to an engine's container", spec.UDP, other4, "192.0.2.1:53", "172.17.0.2:53", true, false},
		{"led to another port of the host", spec.UDP, other4, "192.0.2.1:53", "192.0.2.1:5300", true, false},
		{"that passes through", spec.UDP, "172.30.1.3:1000", "198.51.100.1:53", "198.51.100.1:53", true, false},
		{"that passes through to a container", spec.UDP, other4, "172.30.1.2:53", "172.30.1.2:53", true, false},
		{"of another protocol", spec.SCTP, other4, "192.0.2.1:53", "192.0.2.1:53", false, false},
		{"to another port", spec.UDP, other4, "192.0.2.1:54", "192.0.2.1:54", false, false},
		{"to ::1, which the proxy serves", spec.UDP, "[::1]:1000", "[::1]:53", "[::1]:53", true, false},
		{"of a link-local client, which the proxy serves", spec.UDP, "[fe80::2]:1000", "[2001:db8:1::1]:53", "[2001:db8:1::1]:53", true, false},
		{"to a link-local address", spec.UDP, "[fe80::2]:1000", "[fe80::1]:53", "[fe80::1]:53", true, false},
		{"of an IPv4 link-local client", spec.UDP, "169.254.0.2:1000", "192.0.2.1:53", "192.0.2.1:53", true, true},
		{"to the one address of a port", spec.UDP, other4, "192.0.2.1:99", "192.0.2.1:99", false, true},
		{"to another address than that", spec.UDP, other4, "192.0.2.3:99", "192.0.2.3:99", true, false},
		{"a connection that nobody answered", spec.TCP, other4, "192.0.2.1:8009", "192.0.2.1:8009", false, true},
		{"one that was answered", spec.TCP, other4, "192.0.2.1:8009", "192.0.2.1:8009", true, false},
		{"one in a shifted range, not answered yet", spec.TCP, other4, "192.0.2.1:8009", "172.30.1.2:9009", false, false},
		{"one of the range as it was before", spec.TCP, other4, "192.0.2.1:8009", "172.30.1.2:8009", false, true},
		{"one answered by who had the port before", spec.TCP, other4, "192.0.2.1:8009", "172.30.1.3:80", true, false},
		{"beyond the range", spec.TCP, other4, "192.0.2.1:8010", "192.0.2.1:8010", false, false},
		{"begun by who had the port on the host", spec.UDP, "192.0.2.1:53", other4, other4, true, true},
		{"begun there of IPv6", spec.UDP, "[2001:db8:1::1]:53", other6, other6, false, true},
		{"begun there with a link-local address, which the proxy serves", spec.UDP, "[2001:db8:1::1]:53", "[fe80::2]:1000", "[fe80::2]:1000", true, false},
		{"begun there to ::1, which the proxy serves", spec.UDP, "[::1]:53", "[::1]:1000", "[::1]:1000", true, false},
		{"begun by the same port of another address", spec.UDP, "192.0.2.3:99", other4, other4, true, false},
		{"begun by the same port of a container", spec.UDP, "172.30.1.3:53", other4, other4, true, false},
		{"a connection begun by the same port", spec.TCP, "192.0.2.1:8009", other4, other4, false, false},
		{"of a port that was revoked", spec.UDP, other4, "192.0.2.1:71", "172.30.1.3:171", true, true},
		{"of that port, led elsewhere by somebody else", spec.UDP, other4, "192.0.2.1:71", "172.30.1.3:71", true, false},
		{"of that port, led nowhere", spec.UDP, other4, "192.0.2.1:71", "192.0.2.1:71", false, false},
	} {
		e := entry{
			proto: c.proto, client: netip.MustParseAddrPort(c.client), asked: netip.MustParseAddrPort(c.asked),
			server: netip.MustParseAddrPort(c.server), answered: c.answered,
		}
		if got := r.stale(e); got != c.stale {
			t.Errorf("%s: stale is %t, want %t", c.what, got, c.stale)
		}
	}
}

// TestWithoutAFirewallWhatOneTranslatedIsStale so that the proxy gets it.
func TestWithoutAFirewallWhatOneTranslatedIsStale(t *testing.T) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{}, "172.30.1.0/24").
		Endpoint("a", "b", "172.30.1.2/24", "", scene.UDP("", 53, 5353, 1))
	w.Host.Addresses, w.Host.NoFirewall = []netip.Addr{netip.MustParseAddr("192.0.2.1")}, true
	r := review{plan: w.Plan(), want: newLedger(published(w.Plan()))}
	for _, c := range []struct {
		asked, server string
		stale         bool
	}{
		{"192.0.2.1:53", "172.30.1.2:5353", true},
		{"192.0.2.1:53", "192.0.2.1:53", false},
		{"192.0.2.1:53", "172.17.0.2:53", false},
		{"172.30.1.2:5353", "172.30.1.2:5353", false},
	} {
		e := entry{
			proto: spec.UDP, client: netip.MustParseAddrPort("198.51.100.2:1000"),
			asked: netip.MustParseAddrPort(c.asked), server: netip.MustParseAddrPort(c.server), answered: true,
		}
		if got := r.stale(e); got != c.stale {
			t.Errorf("%s led to %s: stale is %t, want %t", c.asked, c.server, got, c.stale)
		}
	}
}

func TestWhatAnEndpointTakesAlongIsNotLookedForByItsPorts(t *testing.T) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{}, "172.30.1.0/24").
		Endpoint("a", "b", "172.30.1.2/24", "", scene.UDP("", 53, 53, 1), scene.TCP("", 80, 80, 1)).
		Endpoint("a", "c", "172.30.1.3/24", "", scene.UDP("", 54, 53, 1))
	for _, e := range []string{"b", "c"} {
		if err := w.State.Join(scene.ID("a"), scene.ID(e), "/run/docker/netns/"+e); err != nil {
			t.Fatal(err)
		}
	}
	before := w.Plan()
	w.State.RemoveEndpoint(scene.ID("a"), scene.ID("c"))
	if err := w.State.Publish(scene.ID("a"), scene.ID("b"), []spec.Port{scene.UDP("", 53, 53, 1), scene.TCP("", 81, 80, 1)}, false); err != nil {
		t.Fatal(err)
	}
	came, went := changed(before, w.Plan())
	to := netip.MustParseAddr("172.30.1.2")
	mapping := func(port uint16) plan.Mapping {
		return plan.Mapping{Proto: spec.TCP, Host: netip.IPv4Unspecified(), First: port, Last: port, To: to, ToPort: 80}
	}
	if len(came) != 1 || came[0] != mapping(81) || len(went) != 1 || went[0] != mapping(80) {
		t.Errorf("came %v, went %v; want port 81 and port 80", came, went)
	}
}
