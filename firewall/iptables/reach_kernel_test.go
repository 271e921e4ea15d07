package iptables

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/drawbridge-net/drawbridge/firewall/firewalltest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// machine is a namespace with the layer in it.
type machine struct {
	*lab.Host
	t testing.TB
	f *Firewall
}

func newMachine(t testing.TB, h *lab.Host, kind string) *machine {
	t.Helper()
	f, err := New(kind)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{Host: h, t: t, f: f}
}

// try applies in the machine's namespace, where the commands run.
func (m *machine) try(have, want *plan.Plan) (err error) {
	m.Do(func() { err = m.f.Apply(context.Background(), have, want) })
	return err
}

func (m *machine) apply(have, want *plan.Plan) {
	m.t.Helper()
	if err := m.try(have, want); err != nil {
		m.t.Fatal(err)
	}
}

// kinds runs a test with both.
func kinds(t *testing.T, test func(t *testing.T, kind string)) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", os.DevNull) // others' tables are in other namespaces
	for _, kind := range []string{NFT, Legacy} {
		t.Run("iptables-"+kind, func(t *testing.T) { test(t, kind) })
	}
}

// backend is this firewall for those who judge it by packets.
func backend(kind string) firewalltest.Backend {
	return firewalltest.Backend{
		Name: "iptables-" + kind,
		Protect: func(t testing.TB, h *lab.Host, p *plan.Plan) {
			t.Helper()
			newMachine(t, h, kind).apply(nil, p)
		},
		Layer: func(t testing.TB, h *lab.Host) firewalltest.Applier {
			t.Helper()
			return newMachine(t, h, kind).f
		},
		Drops: func(t testing.TB, h *lab.Host) map[string]int {
			t.Helper()
			return drops(t, h, kind)
		},
		Wipe: func(t testing.TB, h *lab.Host) {
			t.Helper()
			for _, table := range tables() {
				h.Run("iptables-"+kind, "-t", table, "-F")
			}
		},
		Command:      "iptables-" + kind,
		NeedsBridged: true,
	}
}

func TestKernelPackets(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) { firewalltest.Packets(t, backend(kind)) })
}

func TestKernelPacketsAgreeWithTheTable(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) { firewalltest.Table(t, backend(kind)) })
}

func TestKernelWhoGetsAPacketIsWhomThePlanNames(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		firewalltest.Market(t, backend(kind))
	})
}

var dropRule = regexp.MustCompile(`(?m)^\[(\d+):\d+\] -A DRAWBRIDGE-.* --comment "drawbridge [0-9a-f]{12}: (.*)" -j DROP$`)

// drops is what each rule has dropped, by its reason.
func drops(t testing.TB, h *lab.Host, kind string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, command := range []string{"iptables-", "ip6tables-"} {
		for _, found := range dropRule.FindAllStringSubmatch(h.Run(command+kind+"-save", "-c"), -1) {
			n, err := strconv.Atoi(found[1])
			if err != nil {
				t.Fatal(err)
			}
			count[found[2]] += n
		}
	}
	return count
}
