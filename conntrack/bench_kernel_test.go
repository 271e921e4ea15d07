package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// full is a table that a busy host may have; few hosts have a higher limit.
const full = 200_000

// TestKernelLeaveOnAFullTable tells what a request pays where there are 200 000 entries.
func TestKernelLeaveOnAFullTable(t *testing.T) {
	eachWay(t, func(t *testing.T, ways map[uint8]way) {
		m := newMachine(t, lab.NewHost(t))
		m.ways = ways
		made := m.crowd(full)
		m.joined("b", 2)
		start := time.Now()
		m.apply()
		t.Logf("the first look at %d entries took %v", made, time.Since(start))
		m.usual(2)
		m.state.Leave(id("a"), id("b"))
		start = time.Now()
		m.apply()
		took := time.Since(start)
		t.Logf("a Leave with both families among %d entries took %v", made, took)
		if took > 10*time.Second {
			t.Errorf("a Leave took %v", took)
		}
		left := 0
		m.must(m.dump(unix.AF_UNSPEC, nil, func(entry) { left++ }))
		if left != made {
			t.Errorf("%d of %d other entries are left", left, made)
		}
	})
}

// crowd fills the table with entries of others, half of them of IPv6, as far as the
// host's limit goes, and returns how many there are.
func (m *machine) crowd(n int) int {
	m.t.Helper()
	target4, target6 := netip.MustParseAddrPort("192.0.2.2:53"), netip.MustParseAddrPort("[2001:db8:1::2]:53")
	for i := range n {
		a, target := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), target4
		if i%2 == 1 {
			a, target = netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), target6
		}
		err := m.create(family(a), udp(netip.AddrPortFrom(a, 1000), target, target, 0, time.Hour))
		if errors.Is(err, unix.ENOMEM) {
			m.t.Logf("the table takes no more than %d entries", i)
			return i
		}
		m.must(err)
	}
	return n
}

// BenchmarkKernelForget tells what one address costs by the number of other entries.
func BenchmarkKernelForget(b *testing.B) {
	m := newMachine(b, lab.NewHost(b))
	for _, n := range []int{0, full} {
		made := m.crowd(n)
		for _, row := range []struct {
			addr string
			way  way
		}{
			{"172.30.1.2", filter}, {"172.30.1.2", list}, {"172.30.1.2", walk}, {"fd00:30:1::2", walk},
		} {
			addr := netip.MustParseAddr(row.addr)
			b.Run(fmt.Sprintf("%s by %s beside %d", addr, row.way, made), func(b *testing.B) {
				m.ways[family(addr)] = row.way
				for b.Loop() {
					m.must(m.forget(addr))
				}
			})
		}
	}
}

// BenchmarkKernelTrial tells what it costs, once a process and family, to find out.
func BenchmarkKernelTrial(b *testing.B) {
	m := newMachine(b, lab.NewHost(b))
	for _, n := range []int{0, full} {
		made := m.crowd(n)
		for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
			b.Run(fmt.Sprintf("family %d beside %d", f, made), func(b *testing.B) {
				for b.Loop() {
					if _, err := m.try(f); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
