package ipam_test

import (
	"maps"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/ipam"
)

// crash has the daemon die between the two parts of a write. Nobody has got an
// answer then, so what was asked for may be held or not. What was given before must
// be, unless it was this that was to be given back.
func (m *machine) crash(t *rapid.T) {
	if m.broken {
		return
	}
	lost := map[string]bool{}    // pools that may be gone
	given := map[ipam.Key]bool{} // addresses that may be free
	requests := map[string]func(*modelPool) error{
		"name a pool": func(*modelPool) error {
			_, err := m.alloc.RequestPool(ipam.PoolRequest{Prefix: prefixes().Draw(t, "pool")})
			return err
		},
		"choose a pool": func(*modelPool) error {
			_, err := m.alloc.RequestPool(ipam.PoolRequest{})
			return err
		},
		"release a pool": func(p *modelPool) error {
			lost[p.ID] = true
			return m.alloc.ReleasePool(p.ID)
		},
		"use": func(p *modelPool) error {
			return m.alloc.Use("n"+p.ID, ipam.Claim{Prefix: p.Prefix, Auxiliary: []netip.Addr{m.someAddr(t, p)}})
		},
		"choose an address": func(p *modelPool) error {
			_, err := m.alloc.RequestAddress(m.request(t, p))
			return err
		},
		"name an address": func(p *modelPool) error {
			r := m.request(t, p)
			r.Addr = m.someAddr(t, p)
			_, err := m.alloc.RequestAddress(r)
			return err
		},
		"release": func(p *modelPool) error {
			addr := m.someAddr(t, p)
			given[ipam.Key{Pool: p.ID, Addr: addr}] = true
			return m.alloc.ReleaseAddress(p.ID, addr)
		},
	}
	for id, p := range m.model {
		lost[id] = m.yields(p)
	}
	kind := rapid.SampledFrom(slices.Sorted(maps.Keys(requests))).Draw(t, "kind")
	m.store.Tear(errDisk)
	m.with(func(_ *rapid.T, p *modelPool) {
		// Most often the error is that of the torn write; whatever it is, the engine
		// does not hear of it any more.
		_ = requests[kind](p)
	})(t)
	m.store.Tear(nil)
	m.restart(t)
	m.adopt(t, lost, given)
}

// adopt makes the model what the Allocator has found in the Store, if that is all that
// was held.
func (m *machine) adopt(t *rapid.T, lost map[string]bool, given map[ipam.Key]bool) {
	found := map[string]*modelPool{}
	for _, status := range m.alloc.Pools() {
		p := &modelPool{Pool: status.Pool, roles: map[netip.Addr]ipam.Role{}, owners: map[netip.Addr]string{}}
		for _, r := range status.Reservations {
			p.roles[r.Addr] = r.Role
		}
		for _, l := range status.Leases {
			p.owners[l.Addr] = l.Owner
		}
		found[p.ID] = p
	}
	for id, before := range m.model {
		after := found[id]
		if after == nil {
			if !lost[id] {
				t.Fatalf("pool %s is gone", id)
			}
			continue
		}
		for _, addr := range before.all() {
			if before.holds(addr) && !after.holds(addr) && !given[ipam.Key{Pool: id, Addr: addr}] {
				t.Fatalf("address %s of pool %s is free", addr, id)
			}
		}
		for _, addr := range before.resting {
			after.rest(addr)
		}
	}
	m.model = found
}

func (p *modelPool) holds(addr netip.Addr) bool {
	_, leased := p.owners[addr]
	return leased || p.roles[addr] != ""
}
