package ipam

import (
	"container/list"
	"net/netip"
	"time"
)

// restMax bounds how many released addresses of one pool rest in the order of
// their release. In a pool with more of them than this, the one that rested
// longest becomes as good as new, which is after as many releases.
const restMax = 4096

// A pool is a Pool and what is held in it. Which addresses may be chosen is
// kept as spans, so that neither time nor memory depends on the pool's size.
type pool struct {
	Pool
	reserved map[netip.Addr]Role
	leases   map[netip.Addr]*held

	free    span                         // what may be chosen if nobody holds it
	fresh   spans                        // of these, what nobody had lately
	cursor  netip.Addr                   // fresh ones are taken from here on, then from the start
	resting *list.List                   // released addresses, the longest released first
	rests   map[netip.Addr]*list.Element // their places in resting

	since   time.Time // when we first heard of it
	missing time.Time // since when its network is missed; zero: it is not
}

// held is a lease in memory.
type held struct {
	owner   string
	missing time.Time // since when its endpoint is missed; zero: it is not
}

func newPool(p Pool, now time.Time) *pool {
	n := &pool{
		Pool:     p,
		reserved: map[netip.Addr]Role{},
		leases:   map[netip.Addr]*held{},
		free:     choosable(p),
		resting:  list.New(),
		rests:    map[netip.Addr]*list.Element{},
		since:    now,
	}
	if !n.free.last.Less(n.free.first) {
		n.fresh = spans{n.free}
	}
	return n
}

// choosable returns the addresses of a pool that may be chosen. It is empty,
// its last address below its first, if there are none.
func choosable(p Pool) span {
	in := p.Prefix
	if p.Range.IsValid() {
		in = p.Range
	}
	s := spanOf(in)
	if _, special := specialAddr(p.Prefix, s.first); special {
		s.first = s.first.Next()
	}
	if _, special := specialAddr(p.Prefix, s.last); special {
		s.last = s.last.Prev()
	}
	return s
}

// specialAddr reports whether an address means something other than one host,
// and what. Networks of two addresses and of one have no such address: RFC 3021
// for IPv4, RFC 6164 for IPv6.
func specialAddr(p netip.Prefix, a netip.Addr) (string, bool) {
	switch hostBits := a.BitLen() - p.Bits(); {
	case hostBits < 2:
		return "", false
	case a == p.Addr() && a.Is4():
		return "the network's own address", true
	case a == p.Addr():
		return "the subnet-router anycast address", true // RFC 4291, 2.6.1
	case a.Is4() && a == lastAddr(p):
		return "the broadcast address", true
	}
	return "", false
}

// choose returns the address that is next. One that was released rests for as
// long as there are others, because peers, caches and DNS still know its last
// owner; among those that rest, the longest rested is next.
func (p *pool) choose() (netip.Addr, bool) {
	if a, ok := p.fresh.next(p.cursor); ok {
		return a, true
	}
	if oldest := p.resting.Front(); oldest != nil {
		return oldest.Value.(netip.Addr), true
	}
	return netip.Addr{}, false
}

// skipLeased makes choosing begin after the highest lease. The Store does not
// tell which addresses rest; those lately released mostly lie below.
func (p *pool) skipLeased() {
	for a := range p.leases {
		if next := a.Next(); p.cursor.Less(next) {
			p.cursor = next
		}
	}
}

func (p *pool) reserve(r Reservation) {
	p.reserved[r.Addr] = r.Role
	p.take(r.Addr)
}

func (p *pool) lease(l Lease) {
	p.leases[l.Addr] = &held{owner: l.Owner}
	p.take(l.Addr)
}

func (p *pool) unreserve(a netip.Addr) {
	delete(p.reserved, a)
	p.rest(a)
}

func (p *pool) unlease(a netip.Addr) {
	delete(p.leases, a)
	p.rest(a)
}

// take keeps a from being chosen.
func (p *pool) take(a netip.Addr) {
	p.fresh.remove(span{a, a})
	if e := p.rests[a]; e != nil {
		p.resting.Remove(e)
		delete(p.rests, a)
	}
}

// rest lets a be chosen again, after all others, unless somebody still holds it.
func (p *pool) rest(a netip.Addr) {
	_, reserved := p.reserved[a]
	_, leased := p.leases[a]
	outside := a.Less(p.free.first) || p.free.last.Less(a)
	if reserved || leased || outside {
		return
	}
	p.rests[a] = p.resting.PushBack(a)
	if p.resting.Len() > restMax {
		oldest := p.resting.Front().Value.(netip.Addr)
		p.take(oldest)
		p.fresh.add(span{oldest, oldest})
	}
}

// holder names who has a, as an error needs it.
func (p *pool) holder(a netip.Addr) (string, bool) {
	role, reserved := p.reserved[a]
	lease, leased := p.leases[a]
	switch {
	case reserved && role != Named:
		return "the network's " + string(role) + " address", true
	case leased && lease.owner != "":
		return "leased to " + lease.owner, true
	case leased:
		return "leased", true
	}
	return "", false
}
