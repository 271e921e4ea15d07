package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// busy is a table that many hosts have, full one that few have the room for.
const busy, full = 50_000, 200_000

// TestKernelRequestsOnABusyTable tells what requests pay where there are 50 000 entries.
func TestKernelRequestsOnABusyTable(t *testing.T) {
	eachWay(t, func(t *testing.T, ways map[uint8]way) {
		m := newMachine(t, lab.NewHost(t))
		m.ways, m.small = ways, 0
		made := m.crowd(busy)
		m.joined("b", 2)
		takes := func(what string) {
			start := time.Now()
			m.apply()
			took := time.Since(start)
			t.Logf("%s among %d entries took %v", what, made, took)
			// The machine may be as busy as the table.
			if took > 30*time.Second {
				t.Errorf("%s took %v", what, took)
			}
		}
		takes("the first look")
		m.publish("b", spec.Port{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1})
		takes("to publish a port in both families, the first time,")
		m.publish("b", spec.Port{Proto: spec.TCP, HostPort: 8081, ContainerPort: 80, Count: 1})
		takes("to publish another in its place")
		m.publish("b", spec.Port{Proto: spec.UDP, HostPort: 8000, ContainerPort: 9000, Count: 1000})
		takes("to publish a range of 1000")
		m.publish("b")
		takes("to revoke it")
		m.have = nil
		takes("a look after a mend")
		m.usual(2)
		m.state.Leave(id("a"), id("b"))
		takes("a Leave with both families")
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
		e := entry{proto: spec.UDP, client: netip.AddrPortFrom(a, 1000), asked: target, server: target}
		err := m.create(family(a), e.attributes(0, time.Hour))
		if errors.Is(err, unix.ENOMEM) {
			m.t.Logf("the table takes no more than %d entries", i)
			return i
		}
		m.must(err)
	}
	return n
}

// BenchmarkKernelMend tells what a look at all entries costs by their number, if they are
// all of containers that the host hides.
func BenchmarkKernelMend(b *testing.B) {
	m := newMachine(b, lab.NewHost(b))
	m.joined("b", 2)
	m.apply()
	n := 0
	for _, total := range []int{0, busy, full} {
		for ; n < total; n++ {
			a := netip.AddrFrom4([4]byte{172, 30, 1, 2})
			target := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), uint16(1+n>>16))
			e := entry{
				proto: spec.UDP, client: netip.AddrPortFrom(a, 1000), asked: target, server: target,
				shown: netip.MustParseAddrPort("192.0.2.1:1000"),
			}
			if err := m.create(unix.AF_INET, e.attributes(0, time.Hour)); err != nil {
				b.Skipf("the table takes no more than %d entries: %v", n, err)
			}
		}
		b.Run(fmt.Sprint(total), func(b *testing.B) {
			for b.Loop() {
				m.must(m.overhaul(m.seen))
			}
		})
	}
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

// BenchmarkKernelPublish tells what one port of one family costs by the number of other
// entries, and what one more than is looked for port by port.
func BenchmarkKernelPublish(b *testing.B) {
	m := newMachine(b, lab.NewHost(b))
	m.joined("b", 2)
	for _, n := range []int{0, full / 2} {
		made := m.crowd(n)
		for _, ports := range []uint16{1, few + 1} {
			r := review{plan: plan.New(m.state, &plan.Host{IPv6: true}), want: newLedger([]plan.Mapping{{
				Proto: spec.UDP, Host: netip.IPv4Unspecified(), First: 8080, Last: 8080 + ports - 1, To: netip.MustParseAddr("172.30.1.2"), ToPort: 80,
			}})}
			for _, trusted := range []bool{true, false} {
				b.Run(fmt.Sprintf("%d ports, filtered %t, beside %d", ports, trusted, made), func(b *testing.B) {
					m.ports[kind{unix.AF_INET, spec.UDP}] = trusted
					for b.Loop() {
						m.must(m.clean(r))
					}
				})
			}
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
