package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
)

func newAllocator(tb testing.TB, c ipam.Config) *ipam.Allocator {
	tb.Helper()
	if c.Store == nil {
		c.Store = new(ipamtest.Memory)
	}
	if c.Host == nil {
		c.Host = func() ([]ipam.Obstacle, error) { return nil, nil }
	}
	alloc, err := ipam.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return alloc
}

func TestRequestsFromManyAtOnceNeverGetTheSame(t *testing.T) {
	alloc := newAllocator(t, ipam.Config{})
	shared, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("10.0.0.0/22")})
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 8, 100
	var given sync.Map
	var all sync.WaitGroup
	take := func(what fmt.Stringer, err error) bool {
		if err != nil {
			t.Errorf("request: %v", err)
			return false
		}
		if _, twice := given.LoadOrStore(what.String(), true); twice {
			t.Errorf("%s is given twice", what)
		}
		return true
	}
	for range clients {
		all.Go(func() {
			for i := range each {
				if i%20 == 0 {
					p, err := alloc.RequestPool(ipam.PoolRequest{})
					if !take(p.Prefix, err) {
						return
					}
				}
				addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: shared.ID})
				if !take(addr, err) {
					return
				}
				alloc.Pools()
			}
		})
	}
	all.Wait()
	if got := len(alloc.Pools()[0].Leases); got != clients*each {
		t.Errorf("%d addresses are leased, want %d", got, clients*each)
	}
}

// There are more addresses than rest in the order of their release.
func TestEveryAddressHasItsTurnBeforeAnyComesAgain(t *testing.T) {
	store := new(ipamtest.Memory)
	alloc := newAllocator(t, ipam.Config{Store: store})
	pool, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("10.0.0.0/18")})
	if err != nil {
		t.Fatal(err)
	}
	const size = 1<<14 - 2
	given := map[netip.Prefix]bool{}
	for i := range 3 * size {
		if i%size == 0 {
			clear(given)
		}
		addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID})
		if err != nil {
			t.Fatal(err)
		}
		if given[addr] {
			t.Fatalf("%s comes again after only %d others", addr, len(given))
		}
		given[addr] = true
		if err := alloc.ReleaseAddress(pool.ID, addr.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := store.Load()
	if err != nil || len(snap.Rests) != 4096 {
		t.Errorf("%d addresses rest in the store (%v), want the last 4096", len(snap.Rests), err)
	}
	alloc = newAllocator(t, ipam.Config{Store: store})
	addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range snap.Rests {
		if r.Addr == addr.Addr() {
			t.Errorf("after a restart %s comes at once, although others rested longer", r.Addr)
		}
	}
}

func TestFourThousandPoolsAreChosenAndOutliveARestart(t *testing.T) {
	const count = 4000
	store := new(ipamtest.Memory)
	alloc := newAllocator(t, ipam.Config{Store: store})
	for i := range count {
		p, err := alloc.RequestPool(ipam.PoolRequest{})
		if err != nil {
			t.Fatalf("pool %d: %v", i, err)
		}
		if _, err := alloc.RequestAddress(ipam.AddressRequest{Pool: p.ID, Gateway: true}); err != nil {
			t.Fatalf("gateway %d: %v", i, err)
		}
	}
	alloc = newAllocator(t, ipam.Config{Store: store})
	pools := alloc.Pools()
	if len(pools) != count {
		t.Fatalf("%d pools after a restart, want %d", len(pools), count)
	}
	for i := 1; i < count; i++ {
		if pools[i-1].Prefix.Overlaps(pools[i].Prefix) {
			t.Fatalf("pools %s and %s overlap", pools[i-1].Prefix, pools[i].Prefix)
		}
	}
	for _, p := range pools {
		if err := alloc.ReleasePool(p.ID); err != nil {
			t.Fatal(err)
		}
	}
	left, err := store.Load()
	if err != nil || left.Pools != nil || left.Reservations != nil || left.Leases != nil {
		t.Errorf("left in the store: %+v, %v", left, err)
	}
}

// An engine that dislikes every pool keeps them all and asks on and on.
func TestTheSixtyFifthTryIsRefusedAndNamesTheObstacle(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	alloc := newAllocator(t, ipam.Config{
		Now: func() time.Time { return clock },
		Host: func() ([]ipam.Obstacle, error) {
			return []ipam.Obstacle{
				{Prefix: netip.MustParsePrefix("172.16.0.0/12"), What: "route to 172.16.0.0/12 via tun0", Weak: true},
				{Prefix: netip.MustParsePrefix("10.0.0.0/8"), What: "route to 10.0.0.0/8 via tun1", Weak: true},
			}, nil
		},
	})
	var tries []ipam.Pool
	try := func() error {
		p, err := alloc.RequestPool(ipam.PoolRequest{})
		if err == nil {
			tries = append(tries, p)
		}
		return err
	}
	for range 64 {
		if err := try(); err != nil {
			t.Fatal(err)
		}
	}
	err := try()
	if !errors.Is(err, ipam.ErrNoAddress) {
		t.Fatalf("the 65th try: %v", err)
	}
	for _, part := range []string{"172.30.0.0/24", "172.30.63.0/24", "route to 172.16.0.0/12 via tun0"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "tun1") {
		t.Errorf("error %q names what is not in the way", err)
	}

	if _, err := alloc.RequestPool(ipam.PoolRequest{V6: true}); err != nil {
		t.Errorf("the other family is refused as well: %v", err)
	}
	if _, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Errorf("a pool asked for by name is refused as well: %v", err)
	}
	if _, err := alloc.RequestAddress(ipam.AddressRequest{Pool: tries[7].ID, Gateway: true}); err != nil {
		t.Fatal(err)
	}
	if err := try(); err != nil {
		t.Errorf("one of the tries is used now: %v", err)
	}
	if err := alloc.ReleasePool(tries[3].ID); err != nil {
		t.Fatal(err)
	}
	if err := try(); err != nil {
		t.Errorf("one of the tries is released: %v", err)
	}
	if try() == nil {
		t.Error("the next is too many again")
	}
	clock = clock.Add(61 * time.Second)
	if err := try(); err != nil {
		t.Errorf("the engine has forgotten the others: %v", err)
	}
}

// A recorder is a Store that keeps the last changes.
type recorder struct {
	ipamtest.Memory
	last ipam.Changes
}

func (r *recorder) Save(c ipam.Changes) error {
	r.last = c
	return r.Memory.Save(c)
}

func TestAContainerWaitsForTheDiskOnlyWhereAnAddressIsReserved(t *testing.T) {
	store := new(recorder)
	alloc := newAllocator(t, ipam.Config{Store: store})
	pool, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("10.0.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	named := netip.MustParseAddr("10.0.0.9")
	reboot := func() {
		store.Reboot()
		alloc = newAllocator(t, ipam.Config{Store: store})
	}
	for _, step := range []struct {
		name    string
		request ipam.AddressRequest
		durable bool
		before  func()
	}{
		{"the gateway is durable", ipam.AddressRequest{Gateway: true}, true, nil},
		{"a container's address is not", ipam.AddressRequest{Owner: "web"}, false, nil},
		{"nor is it on engines that do not tell the name", ipam.AddressRequest{}, false, nil},
		{"a named one is, if it may be auxiliary", ipam.AddressRequest{Addr: named}, true, nil},
		{"but only once", ipam.AddressRequest{Addr: named}, false, reboot},
		{"nor is it if a container names it", ipam.AddressRequest{Addr: named.Next(), Owner: "db"}, false, nil},
	} {
		if step.before != nil {
			step.before()
		}
		step.request.Pool = pool.ID
		if _, err := alloc.RequestAddress(step.request); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if c := store.last; (c.PutPools != nil || c.PutReservations != nil) != step.durable {
			t.Errorf("%s: wrote %+v", step.name, c)
		}
	}
}

func TestNothingIsChosenWhileTheHostCannotBeSeen(t *testing.T) {
	blind := errors.New("netlink: interrupted")
	alloc := newAllocator(t, ipam.Config{Host: func() ([]ipam.Obstacle, error) { return nil, blind }})
	if _, err := alloc.RequestPool(ipam.PoolRequest{}); !errors.Is(err, blind) {
		t.Errorf("chosen: %v", err)
	}
	if _, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("10.0.0.0/24")}); err != nil {
		t.Errorf("named: %v", err)
	}
}

func TestPoolsAreChosenFromTheConfiguredRangesInOrder(t *testing.T) {
	alloc := newAllocator(t, ipam.Config{Ranges: []ipam.Range{
		aRange("192.0.2.0/25", 26), aRange("fd00:1::/63", 64), aRange("198.51.100.0/24", 24), aRange("fd00:2::/79", 80),
	}})
	for _, want := range []struct {
		v6     bool
		prefix string // "": none is left
	}{
		{false, "192.0.2.0/26"},
		{true, "fd00:1::/64"},
		{false, "192.0.2.64/26"},
		{true, "fd00:1:0:1::/64"},
		{false, "198.51.100.0/24"},
		{true, "fd00:2::/80"},
		{true, "fd00:2:0:0:1::/80"},
		{false, ""},
		{true, ""},
	} {
		p, err := alloc.RequestPool(ipam.PoolRequest{V6: want.v6})
		switch {
		case want.prefix == "":
			if !errors.Is(err, ipam.ErrNoAddress) {
				t.Errorf("when all ranges are spent: %v, %v", p, err)
			}
		case err != nil || p.Prefix.String() != want.prefix:
			t.Errorf("got %s, %v, want %s", p.Prefix, err, want.prefix)
		}
	}
	_, err := alloc.RequestPool(ipam.PoolRequest{})
	if want := "every /26 of 192.0.2.0/25, /24 of 198.51.100.0/24 overlaps pools in use: 3"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("want an error that says which ranges were tried, %q, got %v", want, err)
	}
}

func TestARangeMayHoldMorePoolsThanCanBeCounted(t *testing.T) {
	alloc := newAllocator(t, ipam.Config{
		Ranges: []ipam.Range{aRange("fd00::/8", 126), aRange("8.0.0.0/6", 30)},
		Host: func() ([]ipam.Obstacle, error) {
			return []ipam.Obstacle{{Prefix: netip.MustParsePrefix("fd00::/9"), What: "address fd00::1/9 of eth0"}}, nil
		},
	})
	for _, want := range []struct{ request, prefix string }{
		{"::/126", "fd80::/126"}, {"::/127", "fd80::4/127"}, {"::/64", "fd80:0:0:1::/64"}, {"::/10", "fdc0::/10"}, {"0.0.0.0/7", "8.0.0.0/7"}, {"0.0.0.0/32", "10.0.0.0/32"},
	} {
		p, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix(want.request)})
		if err != nil || p.Prefix.String() != want.prefix {
			t.Errorf("%s: got %s, %v, want %s", want.request, p.Prefix, err, want.prefix)
		}
	}
}

func aRange(prefix string, size int) ipam.Range {
	return ipam.Range{Prefix: netip.MustParsePrefix(prefix), Size: size}
}

func TestRangesThatMakeNoSenseAreRefused(t *testing.T) {
	for _, row := range []struct {
		ranges []ipam.Range
		says   string // "": it is fine
	}{
		{[]ipam.Range{aRange("10.0.0.0/8", 8), aRange("192.168.0.0/16", 30), aRange("fd00::/8", 64), aRange("fc00::/16", 126)}, ""},
		{[]ipam.Range{aRange("127.0.0.0/8", 24)}, "is loopback"},
		{[]ipam.Range{aRange("0.0.0.0/0", 24)}, "means this host"},
		{[]ipam.Range{aRange("224.0.0.0/8", 24)}, "is multicast"},
		{[]ipam.Range{aRange("::ffff:10.0.0.0/104", 120)}, "IPv4 written as IPv6"},
		{[]ipam.Range{aRange("169.254.8.0/24", 28)}, "169.254.0.0/16 is link-local"},
		{[]ipam.Range{aRange("fe80::/32", 64)}, "fe80::/10 is link-local"},
		{[]ipam.Range{aRange("10.1.2.3/8", 24)}, "want 10.0.0.0/8"},
		{[]ipam.Range{aRange("10.0.0.0/16", 15)}, "want 16 to 30"},
		{[]ipam.Range{aRange("10.0.0.0/16", 31)}, "want 16 to 30"},
		{[]ipam.Range{aRange("fd00::/48", 127)}, "want 48 to 126"},
		{[]ipam.Range{aRange("10.0.0.0/8", 24), aRange("fd00::/48", 64), aRange("10.9.0.0/16", 26)}, "10.9.0.0/16 overlaps 10.0.0.0/8"},
		{[]ipam.Range{{Size: 24}}, "not a prefix"},
	} {
		_, err := ipam.New(ipam.Config{
			Store: new(ipamtest.Memory), Host: func() ([]ipam.Obstacle, error) { return nil, nil }, Ranges: row.ranges,
		})
		if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%v: want %q, got %v", row.ranges, row.says, err)
		}
	}
}

func TestAStoreThatContradictsItselfIsReadAsFarAsItCanBe(t *testing.T) {
	prefix := netip.MustParsePrefix("10.0.0.0/24")
	used := ipam.Pool{ID: "used", Prefix: prefix, Used: true}
	untold := ipam.Pool{ID: "an error was answered", Prefix: prefix}
	orphan := ipam.Lease{Key: ipam.Key{Pool: "released", Addr: netip.MustParseAddr("10.0.0.2")}}
	store := new(ipamtest.Memory)
	save := func(c ipam.Changes) {
		t.Helper()
		if err := store.Save(c); err != nil {
			t.Fatal(err)
		}
	}

	save(ipam.Changes{PutPools: []ipam.Pool{untold, used}, PutLeases: []ipam.Lease{orphan}})
	pools := newAllocator(t, ipam.Config{Store: store}).Pools()
	if len(pools) != 1 || pools[0].ID != used.ID || pools[0].Leases != nil {
		t.Errorf("pools are %+v, want only the used one", pools)
	}
	if snap, err := store.Load(); err != nil || len(snap.Pools) != 1 {
		t.Errorf("the store keeps what nobody was told of: %+v, %v", snap.Pools, err)
	}

	aux := ipam.Key{Pool: used.ID, Addr: netip.MustParseAddr("10.0.0.9")}
	save(ipam.Changes{
		PutReservations: []ipam.Reservation{{Key: aux, Role: ipam.Auxiliary}},
		PutLeases:       []ipam.Lease{{Key: aux}}, PutRests: []ipam.Rest{{Key: aux}},
	})
	alloc := newAllocator(t, ipam.Config{Store: store})
	if p := alloc.Pools()[0]; p.Leases != nil || len(p.Reservations) != 1 {
		t.Errorf("what became auxiliary is still leased: %+v", p)
	}
	if addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: used.ID, Addr: aux.Addr, Owner: "db"}); !errors.Is(err, ipam.ErrOverlap) {
		t.Errorf("an auxiliary address is given: %v, %v", addr, err)
	}

	untold.Used = true
	save(ipam.Changes{PutPools: []ipam.Pool{untold}})
	_, err := ipam.New(ipam.Config{Store: store, Host: func() ([]ipam.Obstacle, error) { return nil, nil }})
	if !errors.Is(err, ipam.ErrOverlap) {
		t.Errorf("two used pools of one prefix: %v", err)
	}
	store.Fail(errDisk)
	if _, err := ipam.New(ipam.Config{Store: store, Host: func() ([]ipam.Obstacle, error) { return nil, nil }}); !errors.Is(err, errDisk) {
		t.Errorf("a store that cannot be read: %v", err)
	}
}
