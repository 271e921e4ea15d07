package ipam_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

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
	alloc, pool := poolWith(b, prefix, held)
	b.ReportAllocs()
	for b.Loop() {
		addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID})
		if err != nil {
			b.Fatal(err)
		}
		if err := alloc.ReleaseAddress(pool.ID, addr.Addr()); err != nil {
			b.Fatal(err)
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

// Time is left to the benchmark; memory does not depend on the machine.
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
	cost := func(prefix string) float64 {
		alloc, pool := poolWith(t, prefix, 3)
		return testing.AllocsPerRun(100, func() {
			addr, err := alloc.RequestAddress(ipam.AddressRequest{Pool: pool.ID})
			if err != nil {
				t.Fatal(err)
			}
			if err := alloc.ReleaseAddress(pool.ID, addr.Addr()); err != nil {
				t.Fatal(err)
			}
		})
	}
	narrow := cost("10.0.0.0/29")
	for _, wide := range []string{"10.0.0.0/8", "fd00::/64", "fd00::/8"} {
		if got := cost(wide); got > narrow+1 { // one where a map grows
			t.Errorf("an address of %s costs %v allocations, of a /29 %v", wide, got, narrow)
		}
	}
}
