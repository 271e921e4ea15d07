package ipam

import (
	"net/netip"
	"slices"
)

// A span is a run of addresses, both ends included.
type span struct{ first, last netip.Addr }

// spans is a set of addresses as ordered runs that neither touch nor overlap.
// Its size follows the number of holes in it and not that of its addresses, so
// a /8 with three addresses gone is as small as a /29 with three gone.
type spans []span

// next returns the first member at or after from, or else the very first.
func (s spans) next(from netip.Addr) (netip.Addr, bool) {
	if len(s) == 0 {
		return netip.Addr{}, false
	}
	i := s.search(from)
	if i == len(s) {
		return s[0].first, true
	}
	if from.Less(s[i].first) {
		return s[i].first, true
	}
	return from, true
}

// overlapping returns the first run of members that overlaps r.
func (s spans) overlapping(r span) (span, bool) {
	i := s.search(r.first)
	if i == len(s) || r.last.Less(s[i].first) {
		return span{}, false
	}
	return s[i], true
}

// contain reports whether all of r are members.
func (s spans) contain(r span) bool {
	run, ok := s.overlapping(r)
	return ok && !r.first.Less(run.first) && !run.last.Less(r.last)
}

// remove takes all of r out, whether they are members or not.
func (s *spans) remove(r span) {
	from, to := s.search(r.first), s.search(r.last)
	if to < len(*s) && !r.last.Less((*s)[to].first) {
		to++
	}
	if from == to {
		return
	}
	var rest []span
	if low := (*s)[from]; low.first.Less(r.first) {
		rest = append(rest, span{low.first, r.first.Prev()})
	}
	if high := (*s)[to-1]; r.last.Less(high.last) {
		rest = append(rest, span{r.last.Next(), high.last})
	}
	*s = slices.Replace(*s, from, to, rest...)
}

// add puts all of r in, whether they are members or not.
func (s *spans) add(r span) {
	from, to := s.search(r.first), s.search(r.last)
	if from > 0 && (*s)[from-1].last.Next() == r.first {
		from--
	}
	if to < len(*s) && ((*s)[to].first.Prev() == r.last || !r.last.Less((*s)[to].first)) {
		to++
	}
	if from < to {
		r.first = minAddr(r.first, (*s)[from].first)
		r.last = maxAddr(r.last, (*s)[to-1].last)
	}
	*s = slices.Replace(*s, from, to, r)
}

// search returns the index of the first run that does not end before a.
func (s spans) search(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s, a, func(r span, a netip.Addr) int {
		return r.last.Compare(a)
	})
	return i
}

func minAddr(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

// spanOf returns all addresses of p.
func spanOf(p netip.Prefix) span {
	return span{p.Masked().Addr(), lastAddr(p)}
}

// lastAddr returns the highest address of p: an IPv4 network's broadcast.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
