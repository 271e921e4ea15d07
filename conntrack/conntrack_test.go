package conntrack

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

func TestOnlyAnAddressOfOursThatNobodyHasIsDead(t *testing.T) {
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
	for addr, want := range map[string]bool{
		"172.30.1.1": false, // the bridge
		"172.30.1.2": false, "fd00:30:1::2": false,
		"172.30.1.3": true, "fd00:30:1::3": true,
		"172.30.1.9": true, "fd00:30:1::9": true, "10.255.0.1": true,
		"172.30.2.9": false, "fd00:30:2::9": false, "192.0.2.2": false,
		"fe80::3": true, "172.30.3.3": true,
		"fe80::9":    false, // may be of any link
		"172.30.3.9": false, // may be a machine that stands at the adopted bridge
	} {
		if got := all.dead(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is dead: %t, want %t", addr, got, want)
		}
	}
}
