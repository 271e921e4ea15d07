package ipam_test

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/ipam"
)

// BenchmarkAddress takes and returns an address in pools of very different
// sizes: one should cost what the other costs.
func BenchmarkAddress(b *testing.B) {
	for _, prefix := range []string{"10.0.0.0/29", "10.0.0.0/8", "fd00::/64"} {
		b.Run(prefix, func(b *testing.B) { benchmarkAddress(b, prefix, 3) })
	}
	b.Run("10.0.0.0/8 with 10000 containers", func(b *testing.B) { benchmarkAddress(b, "10.0.0.0/8", 10_000) })
}

func benchmarkAddress(b *testing.B, prefix string, held int) {
	b.Helper()
	take := turnover(b, prefix, held)
	b.ReportAllocs()
	for b.Loop() {
		take()
	}
}

// turnover returns what takes an address of a new pool and gives it back. Others are
// held all the time.
func turnover(tb testing.TB, prefix string, held int) func() {
	tb.Helper()
	alloc, pool := poolWith(tb, prefix, held)
	return func() {
		addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID})
		if err != nil {
			tb.Fatal(err)
		}
		if err := alloc.ReleaseAddress(pool.ID, addr.Addr()); err != nil {
			tb.Fatal(err)
		}
	}
}

func poolWith(tb testing.TB, prefix string, held int) (*ipam.Allocator, ipam.Pool) {
	tb.Helper()
	alloc := newAllocator(tb, ipam.Config{})
	pool, err := alloc.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix(prefix)})
	if err != nil {
		tb.Fatal(err)
	}
	for range held {
		if _, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID}); err != nil {
			tb.Fatal(err)
		}
	}
	return alloc, pool
}

func BenchmarkChoosePoolBeside(b *testing.B) {
	for _, others := range []int{0, 100, 4000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			alloc := newAllocator(b, ipam.Config{})
			for range others {
				choosePool(b, alloc)
			}
			for b.Loop() {
				if err := alloc.ReleasePool(choosePool(b, alloc).ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func choosePool(tb testing.TB, alloc *ipam.Allocator) ipam.Pool {
	tb.Helper()
	pool, err := alloc.RequestPool(ipam.PoolRequest{})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID, Gateway: true}); err != nil {
		tb.Fatal(err)
	}
	return pool
}

func TestAWidePoolIsAsSmallAsANarrowOne(t *testing.T) {
	size := func(prefix string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		alloc, pool := poolWith(t, prefix, 3)
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(alloc)
		runtime.KeepAlive(pool)
		return after.TotalAlloc - before.TotalAlloc
	}
	narrow := size("10.0.0.0/29")
	for _, wide := range []string{"10.0.0.0/8", "fd00::/64", "fd00::/16"} {
		if got := size(wide); got > 2*narrow {
			t.Errorf("three addresses of %s took %d bytes, of a /29 %d", wide, got, narrow)
		}
	}
}

func TestAnAddressOfAWidePoolCostsNoMoreThanThatOfANarrowOne(t *testing.T) {
	cost := func(prefix string) float64 { return testing.AllocsPerRun(100, turnover(t, prefix, 3)) }
	narrow := cost("10.0.0.0/29")
	for _, wide := range []string{"10.0.0.0/8", "fd00::/64", "fd00::/8"} {
		if got := cost(wide); got > narrow+1 { // one where a map grows
			t.Errorf("an address of %s costs %v allocations, of a /29 %v", wide, got, narrow)
		}
	}
}

// TestAnAddressOfAWidePoolTakesNoLongerThanThatOfANarrowOne leaves room for what the
// processor's caches make of up to 4096 addresses that rest, and none for a search.
func TestAnAddressOfAWidePoolTakesNoLongerThanThatOfANarrowOne(t *testing.T) {
	// The fastest of many short rounds is one in which the machine did little else.
	const rounds, each, room = 50, 100, 10
	prefixes := []string{"10.0.0.0/29", "10.0.0.0/8", "fd00::/64", "fd00::/8"}
	fastest := make([]time.Duration, len(prefixes))
	takes := make([]func(), len(prefixes))
	for i, prefix := range prefixes {
		fastest[i], takes[i] = math.MaxInt64, turnover(t, prefix, 3)
	}
	for range rounds {
		for i, take := range takes {
			start := time.Now()
			for range each {
				take()
			}
			fastest[i] = min(fastest[i], time.Since(start)/each)
		}
	}
	for i, prefix := range prefixes {
		if got, narrow := fastest[i], fastest[0]; got > room*narrow {
			t.Errorf("an address of %s takes %v, of %s %v", prefix, got, prefixes[0], narrow)
		}
	}
}
