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

// choosePrefix returns the first free prefix in the ranges. The best one keeps
// away from everything; then pools that yield are overlapped, then weak obstacles.
func (a *Allocator) choosePrefix(ranges []Range, obstacles []Obstacle) (netip.Prefix, error) {
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
			if p, ok := in.firstFree(avoid...); ok {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: every %s overlaps %s",
		ErrNoAddress, describe(ranges), strings.Join(a.inTheWay(prefixes(ranges), obstacles), ", "))
}

// firstFree returns the first prefix of the range's size that has no address in
// avoid. It jumps over runs of what is taken, however long they are.
func (r Range) firstFree(avoid ...spans) (netip.Prefix, bool) {
	for at := r.Prefix.Addr(); r.Prefix.Contains(at); {
		p := netip.PrefixFrom(at, r.Size)
		run, blocked := blocking(spanOf(p), avoid)
		if !blocked {
			return p, true
		}
		at = lastAddr(netip.PrefixFrom(run.last, r.Size)).Next()
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
func (a *Allocator) rangesOf(v6 bool) (ranges []Range, drawn netip.Prefix) {
	for _, r := range a.ranges {
		if r.Prefix.Addr().Is6() == v6 {
			ranges = append(ranges, r)
		}
	}
	const size = 64 // what hosts of IPv6 expect of a network (RFC 4291, 2.5.4)
	switch {
	case ranges != nil:
		return ranges, netip.Prefix{}
	case !v6:
		return DefaultRanges(), netip.Prefix{}
	case a.ula.IsValid():
		return []Range{{a.ula, size}}, netip.Prefix{}
	}
	drawn = drawULA()
	return []Range{{drawn, size}}, drawn
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
func (a *Allocator) checkTries(v6 bool, obstacles []Obstacle) error {
	var tries []netip.Prefix
	for _, p := range a.unused {
		if p.Chosen && !a.yields(p) && p.Prefix.Addr().Is6() == v6 {
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

// inTheWay names what overlaps the ranges. The bridge of a network whose pool is
// counted anyhow is not worth a name.
func (a *Allocator) inTheWay(ranges []netip.Prefix, obstacles []Obstacle) []string {
	others := slices.DeleteFunc(slices.Clone(obstacles), func(o Obstacle) bool {
		return a.taken.contain(spanOf(o.Prefix))
	})
	names := namesOf(others, ranges)
	count := 0
	for p := range a.byPrefix {
		if slices.ContainsFunc(ranges, p.Overlaps) {
			count++
		}
	}
	if count > 0 {
		names = append(names, fmt.Sprintf("pools in use: %d", count))
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
