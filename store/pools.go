package store

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/ipam"
)

var _ ipam.Store = Pools{}

// Pools remembers pools, reservations and the ULA prefix in state.db, leases and
// what rests in boot.db.
type Pools struct{ store *Store }

// Pools is the view for ipam.
func (s *Store) Pools() Pools { return Pools{s} }

const (
	poolBucket        = "pool"
	reservationBucket = "reservation"
	leaseBucket       = "lease"
	restBucket        = "rest"
	ulaBucket         = "ula" // one record with the same key
)

// Load returns everything that is remembered. Leases and rests whose pool is gone,
// which a crash between the two files leaves, are left out.
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
	if all.Rests, err = load[ipam.Rest](s, s.boot, restBucket); err != nil {
		return ipam.Snapshot{}, err
	}
	ula, err := load[netip.Prefix](s, s.state, ulaBucket)
	if err != nil {
		return ipam.Snapshot{}, err
	}
	if len(ula) > 0 {
		all.ULA = ula[0]
	}
	there := make(map[string]bool, len(all.Pools))
	for _, pool := range all.Pools {
		there[pool.ID] = true
	}
	leases := len(all.Leases)
	all.Leases = slices.DeleteFunc(all.Leases, func(l ipam.Lease) bool { return !there[l.Pool] })
	if strays := leases - len(all.Leases); strays > 0 {
		s.notice("%s: %d leases are left out: their pools are gone", s.boot.path, strays)
	}
	all.Rests = slices.DeleteFunc(all.Rests, func(r ipam.Rest) bool { return !there[r.Pool] })
	return all, nil
}

// Save writes all changes, the durable ones first.
func (p Pools) Save(c ipam.Changes) error {
	var durable, volatile edits
	for _, id := range c.DeletePools {
		durable.delete(poolBucket, id)
		durable.deleteUnder(reservationBucket, poolPrefix(id))
		volatile.deleteUnder(leaseBucket, poolPrefix(id))
		volatile.deleteUnder(restBucket, poolPrefix(id))
	}
	for _, k := range c.DeleteReservations {
		durable.delete(reservationBucket, addressKey(k))
	}
	for _, k := range c.DeleteLeases {
		volatile.delete(leaseBucket, addressKey(k))
	}
	for _, k := range c.DeleteRests {
		volatile.delete(restBucket, addressKey(k))
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
	for _, r := range c.PutRests {
		volatile.put(restBucket, addressKey(r.Key), r)
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
