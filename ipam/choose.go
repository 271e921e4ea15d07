package ipam

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// triesMax bounds the pools that the engine may hold without using them. It
// refuses a chosen pool that overlaps what it sees on the host, keeps it, and
// asks again, for ever if need be.
const triesMax = 64

// An Obstacle is something on the host that chosen pools keep away from. A
// default route is none: it overlaps everything.
type Obstacle struct {
	Prefix netip.Prefix
	What   string // e.g. address 192.168.1.7/24 of eth0
	// Weak ones are overlapped when nothing else is free. Routes to elsewhere
	// are: with a VPN that routes 10.0.0.0/8, a piece of that may be all there is.
	Weak bool
}

func (o Obstacle) String() string {
	if o.What == "" {
		return o.Prefix.String()
	}
	return o.What
}

// choosePrefix returns the first free prefix of the size. The best one keeps
// away from everything; then pools that yield are overlapped, then weak obstacles.
func (a *Allocator) choosePrefix(ranges []netip.Prefix, size netip.Prefix, obstacles []Obstacle) (netip.Prefix, error) {
	holds := func(r netip.Prefix) bool { return r.Bits() <= size.Bits() }
	if !slices.ContainsFunc(ranges, holds) {
		return netip.Prefix{}, fmt.Errorf("%w: no /%d fits into %s", ErrNoAddress, size.Bits(), join(ranges))
	}
	var strong, all []netip.Prefix
	for _, o := range obstacles {
		all = append(all, o.Prefix.Masked())
		if !o.Weak {
			strong = append(strong, o.Prefix.Masked())
		}
	}
	firm, strongSet, allSet := a.firm(), newPrefixes(strong), newPrefixes(all)
	for _, avoid := range [][]prefixes{{a.taken, allSet}, {firm, allSet}, {firm, strongSet}} {
		for _, in := range ranges {
			if p, ok := firstFree(in, size.Bits(), avoid...); ok {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: every /%d of %s overlaps %s",
		ErrNoAddress, size.Bits(), join(ranges), inTheWay(ranges, firm, obstacles))
}

// firstFree returns the first prefix of a size within in that overlaps no
// member of avoid. It jumps from obstacle to obstacle, however wide they are.
func firstFree(in netip.Prefix, bits int, avoid ...prefixes) (netip.Prefix, bool) {
	if bits < in.Bits() {
		return netip.Prefix{}, false
	}
	for at := in.Addr(); in.Contains(at); {
		p := netip.PrefixFrom(at, bits)
		hit, blocked := blocking(p, avoid)
		if !blocked {
			return p, true
		}
		if hit.Bits() > bits {
			hit = p
		}
		at = lastAddr(hit).Next()
	}
	return netip.Prefix{}, false
}

func blocking(p netip.Prefix, avoid []prefixes) (netip.Prefix, bool) {
	for _, set := range avoid {
		if hit, ok := set.overlapping(p); ok {
			return hit, true
		}
	}
	return netip.Prefix{}, false
}

// rangesOf returns the ranges of one family. For IPv6 it may have to draw the
// host's own prefix; it is returned to be remembered.
func (a *Allocator) rangesOf(family netip.Addr) (ranges []netip.Prefix, drawn netip.Prefix) {
	for _, r := range a.ranges {
		if r.Addr().Is4() == family.Is4() {
			ranges = append(ranges, r)
		}
	}
	switch {
	case ranges != nil:
		return ranges, netip.Prefix{}
	case family.Is4():
		return DefaultRanges(), netip.Prefix{}
	case a.ula.IsValid():
		return []netip.Prefix{a.ula}, netip.Prefix{}
	}
	drawn = drawULA()
	return []netip.Prefix{drawn}, drawn
}

// drawULA returns a /48 that no other site is likely to have: 40 random bits
// after fd00::/8, RFC 4193, 3.2.
func drawULA() netip.Prefix {
	b := [16]byte{0: 0xfd}
	rand.Read(b[1:6])
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// checkTries ends the engine's asking for a pool that it likes, and says what
// it may be that the engine dislikes.
func (a *Allocator) checkTries(size netip.Prefix, obstacles []Obstacle) error {
	var tries prefixes
	for _, p := range a.taken {
		known := a.byPrefix[p]
		if known.Chosen && !known.Used && !a.yields(known) && p.Addr().Is4() == size.Addr().Is4() {
			tries = append(tries, p)
		}
	}
	if len(tries) < triesMax {
		return nil
	}
	return fmt.Errorf("%w: the engine used none of %d pools from %s to %s given within a minute; they overlap %s",
		ErrNoAddress, len(tries), tries[0], tries[len(tries)-1], inTheWay(tries, nil, obstacles))
}

// inTheWay names what overlaps the ranges.
func inTheWay(ranges []netip.Prefix, pools prefixes, obstacles []Obstacle) string {
	const shown = 5 // enough to see what it is about
	overlaps := func(p netip.Prefix) bool {
		return slices.ContainsFunc(ranges, p.Overlaps)
	}
	var names []string
	for _, o := range obstacles {
		if name := o.String(); overlaps(o.Prefix) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if more := len(names) - shown; more > 0 {
		names = append(names[:shown], fmt.Sprintf("%d more on the host", more))
	}
	count := 0
	for _, p := range pools {
		if overlaps(p) {
			count++
		}
	}
	if count > 0 {
		names = append(names, fmt.Sprintf("%d pools in use", count))
	}
	if names == nil {
		return "nothing that is known here"
	}
	return strings.Join(names, ", ")
}

func join(list []netip.Prefix) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
