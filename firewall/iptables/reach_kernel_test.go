package iptables

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
	"github.com/drawbridge-net/drawbridge/test/scene"
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
	for _, kind := range []string{NFT, Legacy} {
		t.Run("iptables-"+kind, func(t *testing.T) { test(t, kind) })
	}
}

// TestKernelPacketsAgreeWithTheTable asks everything that plan.Trace is asked, with
// frames between containers shown to the firewall and, where nothing depends on it,
// as on most hosts, not.
func TestKernelPacketsAgreeWithTheTable(t *testing.T) {
	tables, err := reach.Read("../../plan/testdata/reach")
	if err != nil {
		t.Fatal(err)
	}
	kinds(t, func(t *testing.T, kind string) {
		scene.BridgedOrNot(t, func(t *testing.T, bridged string) {
			for _, k := range reach.Kinds() {
				if bridged == "0" && strings.Contains(k.Name, "apart") {
					continue
				}
				t.Run(k.Name, func(t *testing.T) {
					t.Parallel() // most of it is waiting for silence
					p, err := k.Plan()
					if err != nil {
						t.Fatal(err)
					}
					v := scene.NewVillage(t, p, func(h *lab.Host) { newMachine(t, h, kind).apply(nil, p) })
					v.Bridged(bridged)
					v.Agrees(k, tables[k.Name], func() map[string]int { return drops(t, v.Host, kind) })
				})
			}
		})
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
