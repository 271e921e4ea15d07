package store

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/ipam"
)

var _ ipam.Store = Pools{}

// Pools remembers pools, reservations and the ULA prefix in state.db, and leases
// in boot.db.
type Pools struct{ store *Store }

// Pools is the view for ipam.
func (s *Store) Pools() Pools { return Pools{s} }

const (
	poolBucket        = "pool"
	reservationBucket = "reservation"
	leaseBucket       = "lease"
	ulaBucket         = "ula" // one record with the same key
)

// Load returns everything that is remembered. Leases whose pool is gone, which a
// crash between the two files leaves, are left out.
func (p Pools) Load() (ipam.Snapshot, error) {
	var all ipam.Snapshot
	var err error
	s := p.store
	if all.Pools, err = load[ipam.Pool](s, s.state, poolBucket); err != nil {
		return ipam.Snapshot{}, err
	}
	if all.Reservations, err = load[ipam.Reservation](s, s.state, reservationBucket); err != nil {
		return ipam.Snapshot{}, err
	}
	if all.Leases, err = load[ipam.Lease](s, s.boot, leaseBucket); err != nil {
		return ipam.Snapshot{}, err
	}
	ula, err := load[netip.Prefix](s, s.state, ulaBucket)
	if err != nil {
		return ipam.Snapshot{}, err
	}
	if len(ula) > 0 {
		all.ULA = ula[0]
	}
	all.Leases = p.withPool(all.Leases, all.Pools)
	return all, nil
}

func (p Pools) withPool(leases []ipam.Lease, pools []ipam.Pool) []ipam.Lease {
	there := make(map[string]bool, len(pools))
	for _, pool := range pools {
		there[pool.ID] = true
	}
	kept := slices.DeleteFunc(slices.Clone(leases), func(l ipam.Lease) bool { return !there[l.Pool] })
	if strays := len(leases) - len(kept); strays > 0 {
		p.store.notice("%s: %d leases are left out: their pools are gone", p.store.boot.path, strays)
	}
	return kept
}

// Save writes all changes, the durable ones first.
func (p Pools) Save(c ipam.Changes) error {
	var durable, volatile edits
	for _, id := range c.DeletePools {
		durable.delete(poolBucket, id)
		durable.deleteUnder(reservationBucket, poolPrefix(id))
		volatile.deleteUnder(leaseBucket, poolPrefix(id))
	}
	for _, k := range c.DeleteReservations {
		durable.delete(reservationBucket, addressKey(k))
	}
	for _, k := range c.DeleteLeases {
		volatile.delete(leaseBucket, addressKey(k))
	}
	for _, pool := range c.PutPools {
		durable.put(poolBucket, pool.ID, pool)
	}
	for _, r := range c.PutReservations {
		durable.put(reservationBucket, addressKey(r.Key), r)
	}
	for _, l := range c.PutLeases {
		volatile.put(leaseBucket, addressKey(l.Key), l)
	}
	if c.ULA.IsValid() {
		durable.put(ulaBucket, ulaBucket, c.ULA)
	}
	return p.store.save(durable, volatile)
}

// poolPrefix begins the keys of all that is in a pool. The length in front keeps
// one pool's apart from those of another whose ID begins alike.
func poolPrefix(id string) string {
	return string(binary.AppendUvarint(nil, uint64(len(id)))) + id
}

func addressKey(k ipam.Key) string {
	return poolPrefix(k.Pool) + string(k.Addr.AsSlice())
}
