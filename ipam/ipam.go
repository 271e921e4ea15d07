// Package ipam decides which pools and addresses Docker's networks get and
// remembers what it gave away. It does not touch the kernel, does not speak
// Docker's protocol, and does not make networks or endpoints: it only knows
// whether somebody made them.
package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The classes of errors that a caller may branch on.
var (
	// ErrNoAddress says that nothing is left to choose from.
	ErrNoAddress = errors.New("nothing free")
	// ErrOverlap says that somebody else holds what was asked for by name.
	ErrOverlap = errors.New("already taken")
)

// A Config is what an Allocator needs from outside.
type Config struct {
	Store Store

	// Host returns what chosen pools must keep away from, e.g. the host's own
	// addresses, but not the bridge of a network that is being removed. Pools
	// that are asked for by name are not held against it: on a macvlan network
	// the host's own subnet is the right one.
	Host func() ([]Obstacle, error)

	// Ranges are what pools are chosen from, in this order. Without any of a
	// family, IPv4 pools come from DefaultRanges and IPv6 pools, of length 64,
	// from a /48 of RFC 4193 that is drawn once and remembered.
	Ranges []Range

	Now func() time.Time // nil: time.Now
}

// An Allocator gives pools and addresses away and takes them back. No address
// is held twice, whichever pool it is asked from: one host has one space of
// addresses. Every answer is written to the Store before it is given.
//
// Requests are not idempotent, because engines up to 28 send the same bytes for
// two containers: a request made twice is two requests. Releases are.
type Allocator struct {
	store  Store
	host   func() ([]Obstacle, error)
	ranges []Range
	now    func() time.Time

	mu       sync.Mutex
	pools    map[string]*pool       // by ID
	byPrefix map[netip.Prefix]*pool // the same ones
	unused   map[string]*pool       // those of them that are not Used
	taken    spans                  // the addresses of all of them
	ula      netip.Prefix           // zero until it is needed
}

// New returns an Allocator that goes on where the one before it stopped.
func New(c Config) (*Allocator, error) {
	a := &Allocator{
		store:    c.Store,
		host:     c.Host,
		ranges:   c.Ranges,
		now:      c.Now,
		pools:    map[string]*pool{},
		byPrefix: map[netip.Prefix]*pool{},
		unused:   map[string]*pool{},
	}
	if a.store == nil || a.host == nil {
		panic("ipam: New needs a Store and a Host")
	}
	if a.now == nil {
		a.now = time.Now
	}
	if err := CheckRanges(a.ranges); err != nil {
		return nil, fmt.Errorf("ranges of pools: %w", err)
	}
	snap, err := a.store.Load()
	if err != nil {
		return nil, fmt.Errorf("load pools: %w", err)
	}
	if err := a.restore(snap); err != nil {
		return nil, fmt.Errorf("load pools: %w", err)
	}
	return a, nil
}

// restore fills an empty Allocator. A crash or an error of the Store may have
// left what nobody was told of: leases and rests that belong to no pool, which
// hold nothing, a lease of what became auxiliary, and a pool in the place of
// which another one was given afterwards.
func (a *Allocator) restore(snap Snapshot) error {
	var untold Changes
	for _, p := range usedFirst(snap.Pools) {
		other := a.overlapping(p.Prefix)
		switch {
		case other != nil && p.Used:
			return fmt.Errorf("pool %s: %w: pool %s", p.ID, ErrOverlap, other.ID)
		case other != nil:
			untold.DeletePools = append(untold.DeletePools, p.ID)
		default:
			a.put(p)
		}
	}
	barred := map[Key]bool{}
	for _, r := range snap.Reservations {
		barred[r.Key] = r.Role != Named
	}
	leases := slices.DeleteFunc(snap.Leases, func(l Lease) bool {
		if barred[l.Key] && a.pools[l.Pool] != nil {
			untold.DeleteLeases = append(untold.DeleteLeases, l.Key)
		}
		return barred[l.Key]
	})
	slices.SortFunc(snap.Rests, func(a, b Rest) int { return cmp.Compare(a.Turn, b.Turn) })
	a.apply(Changes{PutReservations: snap.Reservations, PutLeases: leases, PutRests: snap.Rests, ULA: snap.ULA})
	for _, p := range a.pools {
		// Who asks for the same again most likely never had the answer.
		p.since = time.Time{}
		for _, l := range p.leases {
			l.restored = true
		}
	}
	if untold.DeletePools == nil && untold.DeleteLeases == nil {
		return nil
	}
	return a.store.Save(untold)
}

func usedFirst(pools []Pool) []Pool {
	return slices.SortedStableFunc(slices.Values(pools), func(a, b Pool) int {
		switch {
		case a.Used == b.Used:
			return 0
		case a.Used:
			return -1
		default:
			return 1
		}
	})
}

// save makes changes durable and then true. If the Store refuses them, nothing
// has happened as far as anybody is told.
func (a *Allocator) save(c Changes) error {
	if err := a.store.Save(c); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	a.apply(c)
	return nil
}

// apply is the only place where the memory of the Allocator changes. What is
// put comes before what is deleted, so that an address whose hold changes its
// kind is never free in between.
func (a *Allocator) apply(c Changes) {
	for _, id := range c.DeletePools {
		a.forget(a.pools[id])
	}
	for _, p := range c.PutPools {
		a.put(p)
	}
	for _, r := range c.PutReservations {
		if p := a.pools[r.Pool]; p != nil {
			p.reserve(r)
		}
	}
	for _, l := range c.PutLeases {
		if p := a.pools[l.Pool]; p != nil {
			p.lease(l)
		}
	}
	for _, k := range c.DeleteReservations {
		delete(a.pools[k.Pool].reserved, k.Addr)
	}
	for _, k := range c.DeleteLeases {
		delete(a.pools[k.Pool].leases, k.Addr)
	}
	for _, k := range c.DeleteRests {
		a.pools[k.Pool].wake(k.Addr)
	}
	for _, r := range c.PutRests {
		if p := a.pools[r.Pool]; p != nil {
			p.rest(r)
		}
	}
	if c.ULA.IsValid() {
		a.ula = c.ULA
	}
}

func (a *Allocator) put(p Pool) {
	known := a.pools[p.ID]
	if known == nil {
		known = newPool(p, a.now())
		a.pools[p.ID] = known
		a.byPrefix[p.Prefix] = known
		a.taken.add(spanOf(p.Prefix))
	}
	known.Pool = p
	if p.Used {
		delete(a.unused, p.ID)
	} else {
		a.unused[p.ID] = known
	}
}

func (a *Allocator) forget(p *pool) {
	delete(a.pools, p.ID)
	delete(a.byPrefix, p.Prefix)
	delete(a.unused, p.ID)
	a.taken.remove(spanOf(p.Prefix))
}

// overlapping returns a pool that overlaps p and does not yield to it, or else
// one that does, or nil: of several always the same one.
func (a *Allocator) overlapping(p netip.Prefix) *pool {
	if _, ok := a.taken.overlapping(spanOf(p)); !ok {
		return nil // as most of the time: no need to look at all of them
	}
	var found *pool
	for _, other := range a.pools {
		if other.Prefix.Overlaps(p) && (found == nil || a.before(other, found)) {
			found = other
		}
	}
	return found
}

// before puts those first that do not yield.
func (a *Allocator) before(p, q *pool) bool {
	if yields := a.yields(p); yields != a.yields(q) {
		return !yields
	}
	return inOrder(p, q) < 0
}
