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

// choosePrefix returns the first free prefix of the size. The best one keeps
// away from everything; then pools that yield are overlapped, then weak obstacles.
func (a *Allocator) choosePrefix(ranges []netip.Prefix, size netip.Prefix, obstacles []Obstacle) (netip.Prefix, error) {
	holds := func(r netip.Prefix) bool { return r.Bits() <= size.Bits() }
	if !slices.ContainsFunc(ranges, holds) {
		return netip.Prefix{}, fmt.Errorf("%w: no /%d fits into %s", ErrNoAddress, size.Bits(), join(ranges))
	}
	var strong, all spans
	for _, o := range obstacles {
		all.add(spanOf(o.Prefix))
		if !o.Weak {
			strong.add(spanOf(o.Prefix))
		}
	}
	firm := a.firm()
	for _, avoid := range [][]spans{{a.taken, all}, {firm, all}, {firm, strong}} {
		for _, in := range ranges {
			if p, ok := firstFree(in, size.Bits(), avoid...); ok {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: every /%d of %s overlaps %s",
		ErrNoAddress, size.Bits(), join(ranges), strings.Join(a.inTheWay(ranges, obstacles), ", "))
}

// firstFree returns the first prefix of a size within in that has no address in
// avoid. It jumps over runs of what is taken, however long they are.
func firstFree(in netip.Prefix, bits int, avoid ...spans) (netip.Prefix, bool) {
	if bits < in.Bits() {
		return netip.Prefix{}, false
	}
	for at := in.Addr(); in.Contains(at); {
		p := netip.PrefixFrom(at, bits)
		run, blocked := blocking(spanOf(p), avoid)
		if !blocked {
			return p, true
		}
		at = lastAddr(netip.PrefixFrom(run.last, bits)).Next()
	}
	return netip.Prefix{}, false
}

func blocking(p span, avoid []spans) (span, bool) {
	for _, s := range avoid {
		if run, ok := s.overlapping(p); ok {
			return run, true
		}
	}
	return span{}, false
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
	var tries []netip.Prefix
	for _, p := range a.unused {
		if p.Chosen && !a.yields(p) && p.Prefix.Addr().Is4() == size.Addr().Is4() {
			tries = append(tries, p.Prefix)
		}
	}
	if len(tries) < triesMax {
		return nil
	}
	slices.SortFunc(tries, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	why := "nothing that is known here"
	if names := namesOf(obstacles, tries); names != nil {
		why = strings.Join(names, ", ")
	}
	return fmt.Errorf("%w: the engine used none of %d pools from %s to %s given within a minute; they overlap %s",
		ErrNoAddress, len(tries), tries[0], tries[len(tries)-1], why)
}

// inTheWay names what overlaps the ranges.
func (a *Allocator) inTheWay(ranges []netip.Prefix, obstacles []Obstacle) []string {
	names := namesOf(obstacles, ranges)
	count := 0
	for p := range a.byPrefix {
		if slices.ContainsFunc(ranges, p.Overlaps) {
			count++
		}
	}
	if count > 0 {
		names = append(names, fmt.Sprintf("%d pools in use", count))
	}
	return names
}

// namesOf names the obstacles that overlap any of the prefixes.
func namesOf(obstacles []Obstacle, list []netip.Prefix) []string {
	const shown = 5 // enough to see what it is about
	var names []string
	for _, o := range obstacles {
		if slices.ContainsFunc(list, o.Prefix.Overlaps) && !slices.Contains(names, o.What) {
			names = append(names, o.What)
		}
	}
	if more := len(names) - shown; more > 0 {
		names = append(names[:shown], fmt.Sprintf("%d more on the host", more))
	}
	return names
}

func join(list []netip.Prefix) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
