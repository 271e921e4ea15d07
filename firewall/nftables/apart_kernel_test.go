package nftables

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestKernelAContainerThatComesIsKeptApartAtOnce adds one to a network of two, in one
// transaction for both tables.
func TestKernelAContainerThatComesIsKeptApartAtOnce(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	w := scene.NewWorld(t).Network("a", spec.Network{Apart: true}, "172.30.0.0/24").Endpoint("a", "e", "172.30.0.2/24", "")
	have, old := w.Plan(), w.State
	m.apply(nil, have)
	before := m.generation()
	want := have.Next(old, w.Endpoint("a", "f", "172.30.0.3/24", "", scene.TCP("", 1, 1, 1)).State, have.Host)
	m.apply(have, want)
	if after := m.generation(); after != before+1 {
		t.Errorf("%d transactions, want one", after-before)
	}
	got := difference(have, want).add
	for _, e := range []element{
		{set: setApart, key: rawName(scene.Veth("f"))},
		mappingElement(plan.Mapping{Proto: spec.TCP, Host: netip.IPv4Unspecified(), First: 1, Last: 1, To: netip.MustParseAddr("172.30.0.3"), ToPort: 1}),
	} {
		if _, added := got[e]; !added {
			t.Errorf("not added: %s %x", e.set, e.key)
		}
	}
}
