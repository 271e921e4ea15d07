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
	torn         error
	pools        map[string]ipam.Pool
	reservations map[string]map[ipam.Key]ipam.Reservation // by the ID of their pool
	leases       map[string]map[ipam.Key]ipam.Lease
	rests        map[string]map[ipam.Key]ipam.Rest
	ula          netip.Prefix
}

// Fail makes every later Load and Save return err and do nothing; nil mends it.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Tear makes every later Save write only what is durable and return err, as if
// power failed between the two parts; nil mends it.
func (m *Memory) Tear(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.torn = err
}

// Reboot forgets what does not outlive a boot of the host.
func (m *Memory) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases, m.rests = nil, nil
}

// Load returns everything in order.
func (m *Memory) Load() (ipam.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return ipam.Snapshot{}, m.fail
	}
	snap := ipam.Snapshot{Pools: slices.Collect(maps.Values(m.pools)), ULA: m.ula}
	for _, of := range m.reservations {
		snap.Reservations = slices.AppendSeq(snap.Reservations, maps.Values(of))
	}
	for _, of := range m.leases {
		snap.Leases = slices.AppendSeq(snap.Leases, maps.Values(of))
	}
	for _, of := range m.rests {
		snap.Rests = slices.AppendSeq(snap.Rests, maps.Values(of))
	}
	return sorted(snap), nil
}

// Save applies all changes or, after Fail, none, and after Tear the durable ones.
func (m *Memory) Save(c ipam.Changes) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.saveDurable(c)
	if m.torn != nil {
		return m.torn
	}
	m.saveOfThisBoot(c)
	return nil
}

func (m *Memory) saveDurable(c ipam.Changes) {
	for _, id := range c.DeletePools {
		delete(m.pools, id)
		delete(m.reservations, id)
	}
	for _, k := range c.DeleteReservations {
		delete(m.reservations[k.Pool], k)
	}
	for _, p := range c.PutPools {
		put(&m.pools, p.ID, p)
	}
	for _, r := range c.PutReservations {
		of := m.reservations[r.Pool]
		put(&of, r.Key, r)
		put(&m.reservations, r.Pool, of)
	}
	if c.ULA.IsValid() {
		m.ula = c.ULA
	}
}

func (m *Memory) saveOfThisBoot(c ipam.Changes) {
	for _, id := range c.DeletePools {
		delete(m.leases, id)
		delete(m.rests, id)
	}
	for _, k := range c.DeleteLeases {
		delete(m.leases[k.Pool], k)
	}
	for _, k := range c.DeleteRests {
		delete(m.rests[k.Pool], k)
	}
	for _, l := range c.PutLeases {
		of := m.leases[l.Pool]
		put(&of, l.Key, l)
		put(&m.leases, l.Pool, of)
	}
	for _, r := range c.PutRests {
		of := m.rests[r.Pool]
		put(&of, r.Key, r)
		put(&m.rests, r.Pool, of)
	}
}

// put writes into a map that may not be made yet.
func put[K comparable, V any](in *map[K]V, k K, v V) {
	if *in == nil {
		*in = map[K]V{}
	}
	(*in)[k] = v
}

// sorted puts a snapshot in the one order in which two can be compared.
func sorted(s ipam.Snapshot) ipam.Snapshot {
	slices.SortFunc(s.Pools, func(a, b ipam.Pool) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Reservations, func(a, b ipam.Reservation) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(s.Leases, func(a, b ipam.Lease) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(s.Rests, func(a, b ipam.Rest) int { return compareKeys(a.Key, b.Key) })
	return s
}

func compareKeys(a, b ipam.Key) int {
	return cmp.Or(cmp.Compare(a.Pool, b.Pool), a.Addr.Compare(b.Addr))
}
