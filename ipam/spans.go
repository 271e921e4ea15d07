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

// remove takes a out; it need not be a member.
func (s *spans) remove(a netip.Addr) {
	i := s.search(a)
	if i == len(*s) || a.Less((*s)[i].first) {
		return
	}
	hit := (*s)[i]
	var rest []span
	if hit.first != a {
		rest = append(rest, span{hit.first, a.Prev()})
	}
	if hit.last != a {
		rest = append(rest, span{a.Next(), hit.last})
	}
	*s = slices.Replace(*s, i, i+1, rest...)
}

// add puts a in, which must not be a member.
func (s *spans) add(a netip.Addr) {
	i := s.search(a)
	merged, from, to := span{a, a}, i, i
	if i > 0 && (*s)[i-1].last.Next() == a {
		merged.first, from = (*s)[i-1].first, i-1
	}
	if i < len(*s) && (*s)[i].first.Prev() == a {
		merged.last, to = (*s)[i].last, i+1
	}
	*s = slices.Replace(*s, from, to, merged)
}

// search returns the index of the first run that does not end before a.
func (s spans) search(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s, a, func(r span, a netip.Addr) int {
		return r.last.Compare(a)
	})
	return i
}
