package conntrack

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// TestOnlyWhatLeadsWhereNobodyIsIsDead is about entries of which one source is the
// address: as a client, asked by it, and behind a published port.
func TestOnlyWhatLeadsWhereNobodyIsIsDead(t *testing.T) {
	endpoint := func(joined bool, addresses ...string) *plan.Endpoint {
		e := &plan.Endpoint{Veth: &plan.Veth{Joined: joined}}
		for _, a := range addresses {
			e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
		}
		return e
	}
	network := func(named bool, gateway string, subnets ...string) *plan.Network {
		n := &plan.Network{Zone: &plan.Zone{}, Bridge: &plan.Bridge{Named: named, Addresses: []netip.Prefix{netip.MustParsePrefix(gateway)}}}
		for _, s := range subnets {
			n.Zone.Subnets = append(n.Zone.Subnets, plan.Subnet{Prefix: netip.MustParsePrefix(s)})
		}
		return n
	}
	ours := network(false, "172.30.1.1/24", "172.30.1.0/24", "10.0.0.0/8", "fd00:30:1::/64", "fe80::/64")
	ours.Endpoints = ours.Endpoints.
		With("joined", endpoint(true, "172.30.1.2", "fd00:30:1::2")).
		With("left", endpoint(false, "172.30.1.3", "fd00:30:1::3", "fe80::3"))
	adopted := network(true, "172.30.3.1/24", "172.30.3.0/24")
	adopted.Endpoints = adopted.Endpoints.With("left too", endpoint(false, "172.30.3.3"))
	p := &plan.Plan{Networks: tree.Map[spec.ID, *plan.Network]{}.With("ours", ours).With("adopted", adopted)}
	all := newTerritory(p, func(e *plan.Endpoint) bool { return e.Veth.Joined })
	const live, translated, each = "", "translated", "each"
	other, host := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")
	for text, want := range map[string]string{
		"172.30.1.1": live, // the bridge
		"172.30.1.2": live, "fd00:30:1::2": live,
		"172.30.1.3": each, "fd00:30:1::3": each, "fe80::3": each, "172.30.3.3": each,
		// Nobody of ours, and yet perhaps one more address that a container gave itself.
		"172.30.1.9": translated, "fd00:30:1::9": translated, "10.255.0.1": translated,
		"172.30.2.9": live, "fd00:30:2::9": live, "192.0.2.2": live,
		"fe80::9":    live, // may be of any link
		"172.30.3.9": live, // may be a machine that stands at the adopted bridge
	} {
		addr := netip.MustParseAddr(text)
		for _, c := range []struct {
			from, target, server netip.Addr
			dead                 bool
		}{{addr, other, other, want == each}, {other, addr, addr, want == each}, {other, host, addr, want != live}} {
			e := entry{client: netip.AddrPortFrom(c.from, 1), asked: netip.AddrPortFrom(c.target, 2), server: netip.AddrPortFrom(c.server, 3)}
			if got := all.dead(e); got != c.dead {
				t.Errorf("from %s, asked for %s, answered by %s: dead is %t, want %t", c.from, c.target, c.server, got, c.dead)
			}
		}
	}
}
