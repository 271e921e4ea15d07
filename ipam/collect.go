package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// mourning is how long what Live does not know is kept. Between the request of
// an address and its endpoint, and again between the end of the endpoint and
// the release of its address, the engine may take its time, but not this much.
const mourning = 5 * time.Minute

// Live tells what of our own networks there still is. It is asked while the
// Allocator is locked and must not call it.
type Live interface {
	// Network reports whether there is a network with this ID.
	Network(id string) bool
	// Address reports whether an endpoint of that network has the address.
	Address(network string, addr netip.Addr) bool
}

// Collect takes back what the engine does not know that it has, because an
// answer to it or a release from it was lost, and returns it: pools of which
// one of our networks was made that is gone, and addresses in pools of our
// networks that no endpoint has. It is meant to be called every minute or so;
// what is missed for five is taken.
//
// Pools of other drivers' networks are left alone: nobody tells us whether
// these networks still exist.
func (a *Allocator) Collect(live Live) (Snapshot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var got Snapshot
	var errs []error
	for _, p := range slices.SortedFunc(maps.Values(a.pools), inOrder) {
		if p.Network == "" {
			continue
		}
		if !a.missed(&p.missing, live.Network(p.Network)) {
			missed := func(l *held, present bool) bool { return a.missed(&l.missing, present) }
			leases, err := a.collectLeases(p, live, missed)
			got.Leases, errs = append(got.Leases, leases...), append(errs, err)
			continue
		}
		if err := a.save(Changes{DeletePools: []string{p.ID}}); err != nil {
			errs = append(errs, fmt.Errorf("collect pool %s: %w", p.ID, err))
			continue
		}
		got.Pools = append(got.Pools, p.Pool)
	}
	return got, errors.Join(errs...)
}

// Restarted says that the engine which asks from now on is another one than before:
// what was given away and has come to nothing yet never will. Addresses that no
// endpoint of our networks has are taken back and returned, and pools that nobody has
// used yield at once.
func (a *Allocator) Restarted(live Live) ([]Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.unused {
		p.since = time.Time{}
	}
	var all []Lease
	var errs []error
	for _, p := range slices.SortedFunc(maps.Values(a.pools), inOrder) {
		if p.Network == "" {
			continue
		}
		leases, err := a.collectLeases(p, live, func(_ *held, present bool) bool { return !present })
		all, errs = append(all, leases...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// Reclaim takes back an address in a pool of our networks that was given away before this
// Allocator began, and reports whether it did. The caller knows that no endpoint has it:
// it was for a container whose start ended with its engine. A managed plugin ends with
// its engine too, and is not told that it is asked by another.
func (a *Allocator) Reclaim(pool string, addr netip.Addr) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pools[pool]
	if p == nil || p.Network == "" || p.leases[addr] == nil || !p.leases[addr].restored {
		return false, nil
	}
	var c Changes
	p.release(&c, addr)
	if err := a.save(c); err != nil {
		return false, fmt.Errorf("reclaim address %s: pool %s: %w", addr, p.Prefix, err)
	}
	return true, nil
}

// collectLeases takes back the addresses of a pool that are missed.
func (a *Allocator) collectLeases(p *pool, live Live, missed func(l *held, present bool) bool) ([]Lease, error) {
	var gone []Lease
	var c Changes
	for _, addr := range slices.SortedFunc(maps.Keys(p.leases), netip.Addr.Compare) {
		l := p.leases[addr]
		if missed(l, live.Address(p.Network, addr)) {
			gone = append(gone, Lease{Key: Key{Pool: p.ID, Addr: addr}, Owner: l.owner})
			p.release(&c, addr)
		}
	}
	if gone == nil {
		return nil, nil
	}
	if err := a.save(c); err != nil {
		return nil, fmt.Errorf("collect addresses of pool %s: %w", p.ID, err)
	}
	return gone, nil
}

// missed keeps the time since when something is missing and reports whether it
// has been for long enough.
func (a *Allocator) missed(since *time.Time, present bool) bool {
	switch {
	case present:
		*since = time.Time{}
	case since.IsZero():
		*since = a.now()
	default:
		return a.now().Sub(*since) >= mourning
	}
	return false
}

// A PoolStatus is a pool and all that is held in it, in order of the addresses.
type PoolStatus struct {
	Pool
	Reservations []Reservation
	Leases       []Lease
}

// Pools returns all pools in order of their prefixes.
func (a *Allocator) Pools() []PoolStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []PoolStatus
	for _, p := range slices.SortedFunc(maps.Values(a.pools), inOrder) {
		all = append(all, p.status())
	}
	return all
}

func (p *pool) status() PoolStatus {
	s := PoolStatus{Pool: p.Pool}
	for _, addr := range slices.SortedFunc(maps.Keys(p.reserved), netip.Addr.Compare) {
		s.Reservations = append(s.Reservations, Reservation{Key{p.ID, addr}, p.reserved[addr]})
	}
	for _, addr := range slices.SortedFunc(maps.Keys(p.leases), netip.Addr.Compare) {
		s.Leases = append(s.Leases, Lease{Key{p.ID, addr}, p.leases[addr].owner})
	}
	return s
}

func inOrder(a, b *pool) int {
	return a.Prefix.Addr().Compare(b.Prefix.Addr())
}
