// Package ipamtest has what tests need that deal with an ipam.Store: promises
// that every implementation must keep, and one implementation in memory. It
// has nothing for the product itself.
package ipamtest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/drawbridge-net/drawbridge/ipam"
)

var _ ipam.Store = (*Memory)(nil)

// Memory is a Store that forgets everything with its process. The zero value is
// empty and ready for use.
type Memory struct {
	mu           sync.Mutex
	fail         error
	pools        map[string]ipam.Pool
	reservations map[ipam.Key]ipam.Reservation
	leases       map[ipam.Key]ipam.Lease
	ula          netip.Prefix
}

// Fail makes every later Load and Save return err and do nothing; nil mends it.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Reboot forgets what does not outlive a boot of the host.
func (m *Memory) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.leases)
}

// Load returns everything in order.
func (m *Memory) Load() (ipam.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return ipam.Snapshot{}, m.fail
	}
	return sorted(ipam.Snapshot{
		Pools:        slices.Collect(maps.Values(m.pools)),
		Reservations: slices.Collect(maps.Values(m.reservations)),
		ULA:          m.ula,
		Leases:       slices.Collect(maps.Values(m.leases)),
	}), nil
}

// Save applies all changes or, after Fail, none.
func (m *Memory) Save(c ipam.Changes) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.pools == nil {
		m.pools = map[string]ipam.Pool{}
		m.reservations = map[ipam.Key]ipam.Reservation{}
		m.leases = map[ipam.Key]ipam.Lease{}
	}
	m.remove(c)
	for _, p := range c.PutPools {
		m.pools[p.ID] = p
	}
	for _, r := range c.PutReservations {
		m.reservations[r.Key] = r
	}
	for _, l := range c.PutLeases {
		m.leases[l.Key] = l
	}
	if c.ULA.IsValid() {
		m.ula = c.ULA
	}
	return nil
}

func (m *Memory) remove(c ipam.Changes) {
	for _, id := range c.DeletePools {
		delete(m.pools, id)
		maps.DeleteFunc(m.reservations, func(k ipam.Key, _ ipam.Reservation) bool { return k.Pool == id })
		maps.DeleteFunc(m.leases, func(k ipam.Key, _ ipam.Lease) bool { return k.Pool == id })
	}
	for _, k := range c.DeleteReservations {
		delete(m.reservations, k)
	}
	for _, k := range c.DeleteLeases {
		delete(m.leases, k)
	}
}

// sorted puts a snapshot in the one order in which two can be compared.
func sorted(s ipam.Snapshot) ipam.Snapshot {
	slices.SortFunc(s.Pools, func(a, b ipam.Pool) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Reservations, func(a, b ipam.Reservation) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(s.Leases, func(a, b ipam.Lease) int { return compareKeys(a.Key, b.Key) })
	return s
}

func compareKeys(a, b ipam.Key) int {
	return cmp.Or(cmp.Compare(a.Pool, b.Pool), a.Addr.Compare(b.Addr))
}
