package ipam

import (
	"container/list"
	"net/netip"
	"time"
)

// restMax bounds how many released addresses of one pool rest. With one more, the
// one that rested longest becomes as good as new, which is after as many releases.
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
	turn    uint64                       // of the next one that is released

	since   time.Time // when it was given away; zero: before this Allocator
	missing time.Time // since when its network is missed; zero: it is not
}

// held is a lease in memory.
type held struct {
	owner    string
	restored bool      // given away by an Allocator before this one
	missing  time.Time // since when its endpoint is missed; zero: it is not
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

func (p *pool) reserve(r Reservation) {
	p.reserved[r.Addr] = r.Role
	p.fresh.remove(span{r.Addr, r.Addr})
}

func (p *pool) lease(l Lease) {
	p.leases[l.Addr] = &held{owner: l.Owner}
	p.fresh.remove(span{l.Addr, l.Addr})
}

func (p *pool) holds(a netip.Addr) bool {
	_, reserved := p.reserved[a]
	_, leased := p.leases[a]
	return reserved || leased
}

// release adds to c what takes a back, whatever it was given for, and reports
// whether anybody held it.
func (p *pool) release(c *Changes, a netip.Addr) bool {
	if !p.holds(a) {
		return false
	}
	key := Key{Pool: p.ID, Addr: a}
	if _, reserved := p.reserved[a]; reserved {
		c.DeleteReservations = append(c.DeleteReservations, key)
	}
	if _, leased := p.leases[a]; leased {
		c.DeleteLeases = append(c.DeleteLeases, key)
	}
	if a.Less(p.free.first) || p.free.last.Less(a) {
		return true // never chosen, so it need not wait
	}
	c.PutRests = append(c.PutRests, Rest{Key: key, Turn: p.turn + uint64(len(c.PutRests))})
	if excess := p.resting.Len() + len(c.PutRests) - restMax; excess > len(c.DeleteRests) && p.resting.Len() > len(c.DeleteRests) {
		oldest := p.resting.Front()
		for range c.DeleteRests {
			oldest = oldest.Next()
		}
		c.DeleteRests = append(c.DeleteRests, Key{Pool: p.ID, Addr: oldest.Value.(netip.Addr)})
	}
	return true
}

// rest lets an address be chosen again, after all that nobody had lately. A crash
// may have left one that is held.
func (p *pool) rest(r Rest) {
	p.turn = max(p.turn, r.Turn+1)
	if p.holds(r.Addr) {
		return
	}
	p.fresh.remove(span{r.Addr, r.Addr})
	p.rests[r.Addr] = p.resting.PushBack(r.Addr)
}

// wake ends the rest of an address, because it is taken or has rested long enough.
func (p *pool) wake(a netip.Addr) {
	if e := p.rests[a]; e != nil {
		p.resting.Remove(e)
		delete(p.rests, a)
	}
	if !p.holds(a) {
		p.fresh.add(span{a, a})
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
