package ipam

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The sets are held against a list of all addresses of a small network at the
// very end of the address space, where the next address is none.
func universe() []netip.Addr {
	var all []netip.Addr
	for a := netip.MustParseAddr("255.255.255.224"); a.IsValid(); a = a.Next() {
		all = append(all, a)
	}
	return all
}

func TestSpansAreTheSetThatTheyStandFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		var members []netip.Addr
		without := func(r span) []netip.Addr {
			return slices.DeleteFunc(members, func(a netip.Addr) bool { return !a.Less(r.first) && !r.last.Less(a) })
		}
		t.Repeat(map[string]func(*rapid.T){
			"remove": func(t *rapid.T) {
				r := anySpan().Draw(t, "r")
				s.remove(r)
				members = without(r)
			},
			"add": func(t *rapid.T) {
				r := anySpan().Draw(t, "r")
				s.add(r)
				members = append(without(r), r.all()...)
				slices.SortFunc(members, netip.Addr.Compare)
			},
			"": func(t *rapid.T) {
				checkSpans(t, s, members)
				checkNext(t, s, members, rapid.SampledFrom(universe()).Draw(t, "from"))
				checkOverlapping(t, s, members, anySpan().Draw(t, "r"))
			},
		})
	})
}

func anySpan() *rapid.Generator[span] {
	return rapid.Custom(func(t *rapid.T) span {
		all := universe()
		first := rapid.IntRange(0, len(all)-1).Draw(t, "first")
		last := rapid.IntRange(first, min(first+5, len(all)-1)).Draw(t, "last")
		return span{all[first], all[last]}
	})
}

func (r span) all() []netip.Addr {
	var all []netip.Addr
	for a := r.first; a.IsValid() && !r.last.Less(a); a = a.Next() {
		all = append(all, a)
	}
	return all
}

func checkSpans(t *rapid.T, s spans, members []netip.Addr) {
	var got []netip.Addr
	for i, r := range s {
		if i > 0 && !s[i-1].last.Next().Less(r.first) {
			t.Fatalf("spans touch: %v", s)
		}
		got = append(got, r.all()...)
	}
	if !slices.Equal(got, members) {
		t.Fatalf("members (-want +got):\n- %v\n+ %v", members, got)
	}
}

func checkNext(t *rapid.T, s spans, members []netip.Addr, from netip.Addr) {
	got, ok := s.next(from)
	i := slices.IndexFunc(members, func(a netip.Addr) bool { return !a.Less(from) })
	switch {
	case len(members) == 0:
		if ok {
			t.Fatalf("next of nothing is %s", got)
		}
	case got != members[max(i, 0)]:
		t.Fatalf("next from %s of %v (-want +got):\n- %s\n+ %s", from, members, members[max(i, 0)], got)
	}
}

func checkOverlapping(t *rapid.T, s spans, members []netip.Addr, r span) {
	hit, got := s.overlapping(r)
	want := slices.ContainsFunc(r.all(), func(a netip.Addr) bool { return slices.Contains(members, a) })
	if got != want || got && (r.last.Less(hit.first) || hit.last.Less(r.first)) {
		t.Fatalf("%v overlaps %v: %t, not %t; hit %v", r, s, want, got, hit)
	}
}

func anyPrefix() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.IntRange(27, 32).Draw(t, "bits")
		return netip.PrefixFrom(rapid.SampledFrom(universe()).Draw(t, "addr"), bits).Masked()
	})
}

func TestFirstFreeIsTheFirstThatOverlapsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyPrefix().Draw(t, "in")
		bits := rapid.IntRange(in.Bits(), 32).Draw(t, "bits")
		avoid := rapid.SliceOf(anyPrefix()).Draw(t, "avoid")
		var want netip.Prefix
		for a := in.Addr(); in.Contains(a); a = a.Next() {
			p := netip.PrefixFrom(a, bits)
			if p == p.Masked() && !slices.ContainsFunc(avoid, p.Overlaps) {
				want = p
				break
			}
		}
		var sets [2]spans
		for i, p := range avoid {
			sets[i%2].add(spanOf(p))
		}
		got, ok := Range{in, bits}.firstFree(sets[:]...)
		if got != want || ok != want.IsValid() {
			t.Fatalf("first free /%d of %s besides %v (-want +got):\n- %s\n+ %s", bits, in, avoid, want, got)
		}
	})
}

func TestALongRestedAddressOfAWidePoolIsAsGoodAsNew(t *testing.T) {
	p := newPool(Pool{ID: "wide", Prefix: netip.MustParsePrefix("10.0.0.0/8")}, time.Time{})
	alloc := &Allocator{pools: map[string]*pool{p.ID: p}}
	a := p.free.first
	for range 3 * restMax {
		alloc.apply(Changes{PutLeases: []Lease{{Key: Key{Pool: p.ID, Addr: a}}}})
		var c Changes
		p.release(&c, a)
		alloc.apply(c)
		a = a.Next()
	}
	if p.resting.Len() != restMax || len(p.rests) != restMax {
		t.Errorf("%d addresses rest, %d are known to; want %d", p.resting.Len(), len(p.rests), restMax)
	}
	if len(p.fresh) != 2 {
		t.Errorf("fresh addresses are in %d spans, want one on either side of those that rest", len(p.fresh))
	}
}
