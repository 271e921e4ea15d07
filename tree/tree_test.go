package tree_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/tree"
)

type key int

func (k key) Compare(other key) int { return cmp.Compare(k, other) }

type pair struct {
	m     tree.Map[key, int]
	model map[key]int
}

// grow makes a map and its naive model by the same random steps.
func grow(t *rapid.T, from pair, label string) pair {
	p := pair{from.m, maps.Clone(from.model)}
	for _, k := range rapid.SliceOfN(rapid.IntRange(0, 60), 0, 80).Draw(t, label) {
		if v := rapid.IntRange(0, 3).Draw(t, "value"); v == 0 {
			p.m = p.m.Without(key(k))
			delete(p.model, key(k))
		} else {
			p.m = p.m.With(key(k), v)
			p.model[key(k)] = v
		}
	}
	return p
}

func TestMapHoldsWhatAPlainMapHoldsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := grow(t, pair{model: map[key]int{}}, "steps")
		if p.m.Len() != len(p.model) {
			t.Fatalf("Len %d, want %d", p.m.Len(), len(p.model))
		}
		if got := maps.Collect(p.m.All()); !maps.Equal(got, p.model) {
			t.Fatalf("All: got %v, want %v", got, p.model)
		}
		first := key(rapid.IntRange(-1, 61).Draw(t, "first"))
		var got, want []key
		for k := range p.m.From(first) {
			got = append(got, k)
		}
		for _, k := range slices.Sorted(maps.Keys(p.model)) {
			if k >= first {
				want = append(want, k)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("From(%d): got %v, want %v", first, got, want)
		}
		for k := key(0); k <= 60; k++ {
			v, ok := p.m.Get(k)
			if w, in := p.model[k]; v != w || ok != in {
				t.Fatalf("Get(%d): got %d %t, want %d %t", k, v, ok, w, in)
			}
		}
	})
}

func TestDiffNamesExactlyWhatDiffersAndLeavesTheOldMapAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := grow(t, pair{model: map[key]int{}}, "before")
		after := grow(t, before, "after")
		if got := maps.Collect(before.m.All()); !maps.Equal(got, before.model) {
			t.Fatalf("a later change reached into the earlier map: got %v, want %v", got, before.model)
		}
		patched := maps.Clone(before.model)
		last := key(-1)
		for c := range tree.Diff(before.m, after.m) {
			if c.Old == c.New || c.Old != before.model[c.Key] || c.Key <= last {
				t.Fatalf("change %+v after key %d of %v", c, last, before.model)
			}
			last = c.Key
			if c.New == 0 {
				delete(patched, c.Key)
			} else {
				patched[c.Key] = c.New
			}
		}
		if !maps.Equal(patched, after.model) {
			t.Fatalf("the changes lead to %v, want %v", patched, after.model)
		}
	})
}

func TestLoopsMayStopEarly(t *testing.T) {
	var m, none tree.Map[key, int]
	for k := range key(100) {
		m = m.With(k, 1)
	}
	count := 0
	for range m.All() {
		if count++; count == 3 {
			break
		}
	}
	for range m.From(50) {
		if count++; count == 6 {
			break
		}
	}
	for range tree.Diff(none, m) {
		if count++; count == 9 {
			break
		}
	}
	if count != 9 {
		t.Fatalf("counted %d steps, want 9", count)
	}
}

// BenchmarkChangeAndDiff shows that neither grows with the map beyond its depth.
func BenchmarkChangeAndDiff(b *testing.B) {
	for _, n := range []int{100, 10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var m tree.Map[key, int]
			for k := range n {
				m = m.With(key(k), 1)
			}
			for i := 0; b.Loop(); i++ {
				next := m.With(key(i%n), 2)
				for range tree.Diff(m, next) {
				}
			}
		})
	}
}
