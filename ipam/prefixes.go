package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// prefixes is an ordered set of masked prefixes of which no two overlap, so
// that two looks at neighbours tell whether another one would.
type prefixes []netip.Prefix

// newPrefixes returns the set that covers all of list, which may overlap.
func newPrefixes(list []netip.Prefix) prefixes {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits() // the wider one first: it covers the other
	})
	var set prefixes
	for _, p := range list {
		if len(set) == 0 || !set[len(set)-1].Overlaps(p) {
			set = append(set, p)
		}
	}
	return set
}

// overlapping returns the first member that overlaps p.
func (s prefixes) overlapping(p netip.Prefix) (netip.Prefix, bool) {
	i := s.after(p.Addr())
	for _, m := range s[max(i-1, 0):min(i+1, len(s))] {
		if m.Overlaps(p) {
			return m, true
		}
	}
	return netip.Prefix{}, false
}

func (s *prefixes) add(p netip.Prefix) {
	*s = slices.Insert(*s, s.after(p.Addr()), p)
}

func (s *prefixes) remove(p netip.Prefix) {
	if i := s.after(p.Addr()) - 1; i >= 0 && (*s)[i] == p {
		*s = slices.Delete(*s, i, i+1)
	}
}

// after returns how many members begin at or before a.
func (s prefixes) after(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s, a, func(m netip.Prefix, a netip.Addr) int {
		if m.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return i
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

// checkPrefix refuses what can never be the subnet of a network.
func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() {
		return errors.New("not a prefix")
	}
	for _, special := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "means this host"},
		{"127.0.0.0/8", "is loopback"},
		{"224.0.0.0/4", "is multicast"},
		{"255.255.255.255/32", "is broadcast"},
		{"::/127", "is loopback"},
		{"::ffff:0:0/96", "is IPv4 written as IPv6"},
		{"ff00::/8", "is multicast"},
	} {
		if p.Overlaps(netip.MustParsePrefix(special.prefix)) {
			return fmt.Errorf("%s: %s %s", p, special.prefix, special.what)
		}
	}
	return nil
}

// within reports whether all of inner lies in outer.
func within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}
