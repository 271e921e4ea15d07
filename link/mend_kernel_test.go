package link_test

import (
	"context"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

func (m *machine) mustMend(want *plan.Plan, network spec.ID) {
	m.t.Helper()
	var err error
	m.Do(func() { err = m.kernel.Mend(context.Background(), want, network) })
	must(m.t, err)
}

// TestKernelAMendTouchesOneNetwork and no stray, or else only what is no network's.
func TestKernelAMendTouchesOneNetwork(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	m.Run("sh", "-ec", `
		ip link set dbraa0000000000 down
		ip link set dbva10000000000 nomaster
		ip link set dbva20000000000 name lost7
		ip link set dbrbb0000000000 down
		ip link add dbrcc0000000000 type bridge; ip link set dbrcc0000000000 alias "`+plan.NetworkMark(id("cc"))+`"
		echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding`)
	wrong := func() string {
		t.Helper()
		var all []string
		drift := m.check(want)
		for _, sign := range []string{"dbraa", "dbva1", "dbva2", "dbrbb", "dbrcc", "eth0"} {
			if strings.Contains(drift, sign) {
				all = append(all, sign)
			}
		}
		return strings.Join(all, " ")
	}
	for _, row := range []struct {
		network spec.ID
		left    string
	}{
		{"", "dbraa dbva1 dbva2 dbrbb"},
		{id("bb"), "dbraa dbva1 dbva2"},
		{id("cc"), "dbraa dbva1 dbva2"},
		{id("aa"), ""},
	} {
		m.mustMend(want, row.network)
		if got := wrong(); got != row.left {
			t.Errorf("after the mend of %q: wrong are %q, want %q:\n%s", row.network, got, row.left, m.check(want))
		}
	}
	m.mustBeAsPlanned(want)
}

// TestKernelAMendTakesAwayWhatANetworkNoLongerHas if nobody has done so since it was told.
func TestKernelAMendTakesAwayWhatANetworkNoLongerHas(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	both, one := m.plan(usual()...), m.plan(usual()[:3]...)
	m.mustApply(nil, both)
	m.mustMend(one, "")
	m.mustMend(one, id("aa"))
	m.mustBeAsPlanned(both)
	m.mustMend(one, id("bb"))
	m.mustBeAsPlanned(one)
}
