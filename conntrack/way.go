package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// way is how the entries of one address are got rid of: the best for which the kernel's
// filters can be trusted. That differs between kernels, and between families.
type way int

const (
	// walk reads all entries of the family and judges them here.
	walk way = iota + 1
	// list has the kernel filter what is read.
	list
	// filter has the kernel filter what it deletes.
	filter
)

// forget deletes every entry whose original or reply source is the address.
func (t *Table) forget(addr netip.Addr) error {
	isIt := func(e entry) bool { return slices.Contains(e.sources[:], addr) }
	w := t.wayOf(family(addr))
	if w == walk {
		return t.purge(family(addr), nil, isIt)
	}
	var failed []error
	for _, s := range []side{original, reply} {
		if w == list {
			failed = append(failed, t.purge(family(addr), bySource(s, addr), isIt))
		} else {
			failed = append(failed, t.erase(family(addr), bySource(s, addr)))
		}
	}
	return errors.Join(failed...)
}

// wayOf tries the kernel when it is first needed. What could not be tried, since the
// table is full for instance, is tried again next time.
func (t *Table) wayOf(family uint8) way {
	if t.ways[family] == 0 {
		best, err := t.try(family)
		if err != nil {
			return walk
		}
		t.ways[family] = best
	}
	return t.ways[family]
}

// trialLife is how long the entries of a trial last if we die in it.
const trialLife = 5 * time.Second

// try finds out how far a family's filters can be trusted, which no version tells:
// before Linux 5.8 they are passed over; in the first versions, that for the source of
// replies finds nothing; and by IPv6 address they let through all entries but those
// of the address (up to 6.18 at least), so that to delete by one would be a disaster.
// So two entries are made of sources that no host has, one of them in another zone,
// and who asks for the sources must be shown the other and nothing else.
func (t *Table) try(family uint8) (best way, err error) {
	// RFC 7600 (the IPv4 dummy address) and its neighbour; RFC 6666 (discard prefix).
	source, back := netip.MustParseAddrPort("192.0.0.8:9"), netip.MustParseAddrPort("192.0.0.9:9")
	if family == unix.AF_INET6 {
		source, back = netip.MustParseAddrPort("[100::8]:9"), netip.MustParseAddrPort("[100::9]:9")
	}
	for zone := range uint16(2) {
		e := udp(source, back, back, zone, trialLife)
		if err := t.create(family, e); err != nil {
			return 0, fmt.Errorf("make an entry for trial: %w", err)
		}
		defer func() { err = errors.Join(err, t.erase(family, e)) }()
	}
	if best = t.trust(original, source.Addr()); best > walk {
		best = min(best, t.trust(reply, back.Addr()))
	}
	if best == filter && t.erase(family, bySource(original, source.Addr())) != nil {
		best = list
	}
	return best, nil
}

// trust is the best way for which a filter's answer is good enough, if exactly one
// entry of the default zone has the address as a source.
func (t *Table) trust(s side, addr netip.Addr) way {
	found, zoned, strange := 0, 0, 0
	err := t.dump(family(addr), bySource(s, addr), func(e entry) {
		switch {
		case e.sources[s-original] != addr:
			strange++
		case e.zoned:
			zoned++
		default:
			found++
		}
	})
	switch {
	case err != nil || strange > 0 || found != 1:
		return walk
	case zoned > 0:
		return list
	}
	return filter
}

func (w way) String() string {
	return [...]string{"", "walk", "filtered dump", "filtered deletion"}[w]
}
