package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
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
	isIt := func(e entry) bool { return e.hasSource(func(a netip.Addr) bool { return a == addr }) }
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
	trial := trialOf(family, spec.UDP)
	for zone := range uint16(2) {
		e := trial.attributes(zone, trialLife)
		if err := t.create(family, e); err != nil {
			return 0, fmt.Errorf("make an entry for trial: %w", err)
		}
		defer func() { err = errors.Join(err, t.erase(family, e)) }()
	}
	if best = t.trust(original, trial.client.Addr()); best > walk {
		best = min(best, t.trust(reply, trial.server.Addr()))
	}
	if best == filter && t.erase(family, bySource(original, trial.client.Addr())) != nil {
		best = list
	}
	return best, nil
}

// trialOf is an entry of sources that no host has: RFC 7600 (the IPv4 dummy address) and
// its neighbour, and RFC 6666 (discard prefix).
func trialOf(family uint8, proto spec.Proto) entry {
	client, server := netip.MustParseAddrPort("192.0.0.8:9"), netip.MustParseAddrPort("192.0.0.9:9")
	if family == unix.AF_INET6 {
		client, server = netip.MustParseAddrPort("[100::8]:9"), netip.MustParseAddrPort("[100::9]:9")
	}
	return entry{family: family, proto: proto, client: client, asked: server, server: server}
}

// trust is the best way for which a filter's answer is good enough, if exactly one
// entry of the default zone has the address as a source.
func (t *Table) trust(s side, addr netip.Addr) way {
	found, zoned, strange := 0, 0, 0
	err := t.dump(family(addr), bySource(s, addr), func(e entry) {
		switch {
		case [...]netip.AddrPort{e.client, e.server}[s-original].Addr() != addr:
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

// filtersPorts reports whether the kernel's filter by protocol and port can be trusted. As
// what it lets through is judged here, it need only find what it should, and spare us other
// protocols: of SCTP it lets every port through (up to 6.18 at least). It is tried when it
// is first needed, and again while that cannot be.
func (t *Table) filtersPorts(k kind) bool {
	trusted, tried := t.ports[k]
	if tried {
		return trusted
	}
	trusted, err := t.tryPorts(k)
	if err == nil {
		t.ports[k] = trusted
	}
	return trusted && err == nil
}

func (t *Table) tryPorts(k kind) (trusted bool, err error) {
	trial := trialOf(k.family, k.proto)
	if err := t.create(k.family, trial.attributes(0, trialLife)); err != nil {
		return false, fmt.Errorf("make an entry for trial: %w", err)
	}
	defer func() { err = errors.Join(err, t.erase(k.family, trial.attributes(0, trialLife))) }()
	for _, f := range [][]nl.NetlinkRequestData{byTarget(k.proto, trial.asked.Port()), byClient(k.proto, trial.client.Port())} {
		found, strange := 0, 0
		err := t.dump(k.family, f, func(e entry) {
			switch {
			case e.proto != k.proto:
				strange++
			case e.client == trial.client:
				found++
			}
		})
		if err != nil || found != 1 || strange > 0 {
			return false, nil
		}
	}
	return true, nil
}

func (w way) String() string {
	return [...]string{"", "walk", "filtered dump", "filtered deletion"}[w]
}
