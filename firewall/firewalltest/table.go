package firewalltest

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/firewall/foreign"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

const golden = "../../plan/testdata/reach"

// Most of the time hosts wait for silence, so more of them are up at once than tests that
// compute would be, each for a few kinds of network.
const (
	hostsAtOnce  = 8
	kindsPerHost = 8
)

// Table asks everything that plan.Trace is asked: of all kinds of network on a plain
// host, and of those that differ in a few environments in which each two settings meet.
// DRAWBRIDGE_SOAK has it ask of all kinds in all environments.
func Table(t *testing.T, b Backend) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", os.DevNull) // others' tables are in other namespaces
	tables, err := reach.Read(golden)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{}, hostsAtOnce)
	var asking sync.WaitGroup
	for _, e := range environments(b) {
		for kinds := range slices.Chunk(e.kinds(b, tables), kindsPerHost) {
			asking.Go(func() {
				free <- struct{}{}
				defer func() { <-free }()
				t.Run(e.String(), func(t *testing.T) { e.ask(t, b, kinds, tables) })
			})
		}
	}
	asking.Wait()
}

// environments are those in which a backend is asked.
func environments(b Backend) []environment {
	all := everything()
	few := append(pairwise(), plain(b))
	return slices.DeleteFunc(all, func(e environment) bool {
		return e[backend] != b.Name || !soak() && !slices.Contains(few, e)
	})
}

// kinds are those of which a backend is asked in an environment.
func (e environment) kinds(b Backend, tables reach.Golden) []reach.Kind {
	var chosen []reach.Kind
	seen := map[string]bool{}
	for _, k := range reach.Kinds() {
		table := tables[reach.Of(k, e.neighbour())]
		if soak() || e == plain(b) || !seen[table] {
			chosen = append(chosen, k)
			seen[table] = true
		}
	}
	return chosen
}

// ask puts a firewall up on one host, as the daemon does, for one kind of network after
// the other.
func (e environment) ask(t *testing.T, b Backend, kinds []reach.Kind, tables reach.Golden) {
	neighbour := e.neighbour()
	first, err := kinds[0].Plan(neighbour.Host())
	if err != nil {
		t.Fatal(err)
	}
	v := scene.NewVillage(t, neighbour, first)
	e.furnish(v.Host)
	rules := new(foreign.Rules)
	host := e.look(t, v.Host, rules)
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			v.T = t
			p, err := k.Plan(host)
			if err != nil {
				t.Fatal(err)
			}
			apply(t, v.Host, foreign.Withdraw{Rules: rules}, p)
			b.Protect(t, v.Host, p)
			v.Become(p)
			apply(t, v.Host, foreign.Insert{Rules: rules}, p)
			for i, value := range strings.Fields(e[bridged]) {
				v.Bridged(value)
				if b.NeedsBridged {
					sees := *host
					sees.Blind = value != "1"
					sees.Unseen4, sees.Unseen6 = sees.Blind, sees.Blind
					if p, err = k.Plan(&sees); err != nil {
						t.Fatal(err)
					}
					b.Protect(t, v.Host, p)
					v.Isolate(p)
				}
				if i == 0 {
					v.NeverArrives(k)
				}
				v.Agrees(k, tables[reach.Of(k, neighbour)], func() map[string]int { return b.Drops(t, v.Host) })
			}
		})
	}
}

// Applier is the part of a layer that acts.
type Applier interface {
	Apply(ctx context.Context, have, want *plan.Plan) error
}

func apply(t testing.TB, h *lab.Host, layer Applier, p *plan.Plan) {
	t.Helper()
	var err error
	h.Do(func() { err = layer.Apply(t.Context(), nil, p) })
	if err != nil {
		t.Fatal(err)
	}
}
