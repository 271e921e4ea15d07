package nftables

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

func TestWhatTheKernelKeepsIsReadBackTheSame(t *testing.T) {
	rules := newRuleset()
	all := elements(scene.Everything(t).Plan())
	for _, subnet := range []string{"10.0.0.0/24", "10.0.1.0/24", "255.255.255.0/24", "0.0.0.0/8"} {
		all[prefixElement(setMasquerade, netip.MustParsePrefix(subnet))] = plan.Owner{}
	}
	all[element{set: mapSource + "4", key: rawAddr(netip.MustParseAddr("10.0.0.0")), last: rawAddr(netip.MustParseAddr("10.0.0.255")), value: rawAddr(netip.MustParseAddr("192.0.2.8"))}] = plan.Owner{}
	for _, s := range rules.sets {
		var want []element
		var raw []nftables.SetElement
		for _, e := range slices.SortedFunc(maps.Keys(all), compare) {
			if e.set == s.name {
				want = append(want, e)
				raw = append(s.encode(e), raw...)
			}
		}
		got := s.decode(raw)
		slices.SortFunc(got, compare)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(element{})); diff != "" {
			t.Errorf("set %s (-want +got)\n%s", s.name, diff)
		}
	}
}

func TestAPortThatMovesIsNoChangeOfItsElement(t *testing.T) {
	c := newChange()
	port := []element{{set: "ports_any4", key: "k", value: "v"}}
	c.replace(plan.Owner{Endpoint: "first"}, port, nil)
	c.replace(plan.Owner{Endpoint: "second"}, nil, port)
	if !c.empty() {
		t.Errorf("change %v, want none", c)
	}
	c.replace(plan.Owner{Endpoint: "second"}, nil, []element{{set: "ports_any4", key: "k", value: "w"}})
	c.replace(plan.Owner{Endpoint: "first"}, port, nil)
	if len(c.add) != 1 || len(c.remove) != 1 {
		t.Errorf("change %v, want one element in another's place", c)
	}
}

func TestSubnetsThatOverlapAreLeftOut(t *testing.T) {
	parse := netip.MustParsePrefix
	got := outermost([]netip.Prefix{parse("172.17.1.0/24"), parse("fd17::/64"), parse("172.17.0.0/16"), parse("172.17.0.0/16"), parse("172.18.0.0/16")})
	want := []netip.Prefix{parse("172.17.0.0/16"), parse("172.18.0.0/16"), parse("fd17::/64")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestARequestPaysOnlyForItsOwnElements(t *testing.T) {
	w := scene.Everything(t)
	have, before := w.Plan(), w.State
	w.Endpoint("b", "9", "172.30.1.9/24", "", scene.TCP("", 99, 99, 1))
	got := difference(have, have.Next(before, w.State, have.Host))
	want := map[element]plan.Owner{
		{set: "ports_any4", key: rawProto(spec.TCP) + rawPort(99), value: rawAddr(netip.MustParseAddr("172.30.1.9")) + rawPort(99)}: {Network: scene.ID("b"), Endpoint: scene.ID("9")},
	}
	if diff := cmp.Diff(want, got.add, cmp.AllowUnexported(element{})); diff != "" || len(got.remove) > 0 {
		t.Errorf("(-want +got)\n%s, removed %v", diff, got.remove)
	}
}
