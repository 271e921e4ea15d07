package ipamtest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/drawbridge-net/drawbridge/ipam"
)

// TestStore shows that a Store keeps the promises of the interface. open opens
// one and the same store, empty at first, each time anew: an implementation
// that holds a file closes what it opened before. The steps build on each other.
func TestStore(t *testing.T, open func() ipam.Store) {
	t.Helper()
	for _, step := range steps() {
		ok := t.Run(step.name, func(t *testing.T) {
			if step.save != nil {
				if err := open().Save(*step.save); err != nil {
					t.Fatalf("save: %v", err)
				}
			}
			checkSnapshot(t, open(), step.want)
		})
		if !ok {
			return
		}
	}
}

type step struct {
	name string
	save *ipam.Changes // nil: only look
	want ipam.Snapshot
}

// The pools' IDs are chosen to be mistaken for each other: one is the beginning
// of another, and one holds a byte that a store may use to separate its keys.
const (
	web  = "172.30.0.0/24-A"
	webs = "172.30.0.0/24-AB"
	six  = "fd12:3456:789a::/64-\x00/B"
)

func key(pool, addr string) ipam.Key {
	return ipam.Key{Pool: pool, Addr: netip.MustParseAddr(addr)}
}

func reservation(pool, addr string, role ipam.Role) ipam.Reservation {
	return ipam.Reservation{Key: key(pool, addr), Role: role}
}

func lease(pool, addr, owner string) ipam.Lease {
	return ipam.Lease{Key: key(pool, addr), Owner: owner}
}

func rest(pool, addr string, turn uint64) ipam.Rest {
	return ipam.Rest{Key: key(pool, addr), Turn: turn}
}

func pool(id, prefix string) ipam.Pool {
	return ipam.Pool{ID: id, Prefix: netip.MustParsePrefix(prefix)}
}

func poolOfAllFields() ipam.Pool {
	p := pool(web, "172.30.0.0/24")
	p.Range = netip.MustParsePrefix("172.30.0.128/25")
	p.Chosen, p.Used, p.Network = true, true, "3f2a"
	return p
}

func steps() []step {
	ula := netip.MustParsePrefix("fd12:3456:789a::/48")
	full := ipam.Snapshot{
		Pools: []ipam.Pool{poolOfAllFields(), pool(webs, "10.1.0.0/16"), pool(six, "fd12:3456:789a::/64")},
		Reservations: []ipam.Reservation{
			reservation(web, "172.30.0.1", ipam.Gateway),
			reservation(webs, "10.1.0.9", ipam.Auxiliary),
			reservation(six, "fd12:3456:789a::1", ipam.Gateway),
		},
		ULA: ula,
		Leases: []ipam.Lease{
			lease(web, "172.30.0.2", "web1"),
			lease(webs, "10.1.0.2", ""),
			lease(six, "fd12:3456:789a::2", "02:42:ac:1e:00:02"),
		},
		Rests: []ipam.Rest{
			rest(web, "172.30.0.3", 1<<60), rest(webs, "10.1.0.3", 1), rest(six, "fd12:3456:789a::3", 2),
		},
	}
	without := ipam.Snapshot{
		Pools:        full.Pools[1:],
		Reservations: full.Reservations[1:],
		ULA:          ula,
		Leases:       full.Leases[1:],
		Rests:        full.Rests[1:],
	}
	replaced := without
	replaced.Pools = []ipam.Pool{pool(webs, "10.1.0.0/16"), pool(six, "fd12:3456:789a::/64")}
	replaced.Pools[0].Used = true
	replaced.Reservations = []ipam.Reservation{
		reservation(webs, "10.1.0.9", ipam.Named), without.Reservations[1],
	}
	replaced.Leases = []ipam.Lease{lease(webs, "10.1.0.2", "db"), without.Leases[1]}
	replaced.Rests = []ipam.Rest{rest(webs, "10.1.0.3", 3), without.Rests[1]}
	replaced.ULA = netip.MustParsePrefix("fdff::/48")
	bare := ipam.Snapshot{Pools: replaced.Pools, ULA: replaced.ULA}

	return []step{
		{"a new store is empty", nil, ipam.Snapshot{}},
		{"nothing changes nothing", &ipam.Changes{}, ipam.Snapshot{}},
		{"what is not there can be deleted", &ipam.Changes{
			DeletePools:        []string{web},
			DeleteReservations: []ipam.Key{key(web, "172.30.0.1")},
			DeleteLeases:       []ipam.Key{key(web, "172.30.0.2")},
			DeleteRests:        []ipam.Key{key(web, "172.30.0.3")},
		}, ipam.Snapshot{}},
		{"everything put comes back with all its fields", &ipam.Changes{
			PutPools: full.Pools, PutReservations: full.Reservations, PutLeases: full.Leases, PutRests: full.Rests, ULA: ula,
		}, full},
		{"a deleted pool takes what is in it and nothing else", &ipam.Changes{DeletePools: []string{web}}, without},
		{"putting again replaces", &ipam.Changes{
			PutPools:        replaced.Pools[:1],
			PutReservations: replaced.Reservations[:1],
			PutLeases:       replaced.Leases[:1],
			PutRests:        replaced.Rests[:1],
			ULA:             replaced.ULA,
		}, replaced},
		{"nothing changes nothing, the ULA prefix included", &ipam.Changes{}, replaced},
		{"addresses are deleted one by one", &ipam.Changes{
			DeleteReservations: []ipam.Key{key(webs, "10.1.0.9"), key(six, "fd12:3456:789a::1")},
			DeleteLeases:       []ipam.Key{key(webs, "10.1.0.2"), key(six, "fd12:3456:789a::2")},
			DeleteRests:        []ipam.Key{key(webs, "10.1.0.3"), key(six, "fd12:3456:789a::3")},
		}, bare},
		{
			"the last pools go, the ULA prefix stays", &ipam.Changes{DeletePools: []string{webs, six}},
			ipam.Snapshot{ULA: replaced.ULA},
		},
	}
}

func checkSnapshot(t *testing.T, store ipam.Store, want ipam.Snapshot) {
	t.Helper()
	got, err := store.Load()
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	got, want = sorted(got), sorted(ipam.Snapshot{
		Pools:        slices.Clone(want.Pools),
		Reservations: slices.Clone(want.Reservations),
		ULA:          want.ULA,
		Leases:       slices.Clone(want.Leases),
		Rests:        slices.Clone(want.Rests),
	})
	if !slices.Equal(got.Pools, want.Pools) ||
		!slices.Equal(got.Reservations, want.Reservations) ||
		!slices.Equal(got.Leases, want.Leases) ||
		!slices.Equal(got.Rests, want.Rests) ||
		got.ULA != want.ULA {
		t.Fatalf("snapshot (-want +got):\n- %+v\n+ %+v", want, got)
	}
}
