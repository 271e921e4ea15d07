package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// BenchmarkKernelOneEndpoint adds and removes an endpoint with one port on a host
// that has 5000 of them: the price must not depend on how many there are.
func BenchmarkKernelOneEndpoint(b *testing.B) {
	for _, endpoints := range []int{0, 5000} {
		b.Run(fmt.Sprintf("beside %d", endpoints), func(b *testing.B) {
			w, without := crowd(b, endpoints)
			m := newMachine(b, lab.NewHost(b))
			m.apply(nil, without)
			before := w.State
			w.Endpoint("a", "f", "172.30.255.2/16", "", scene.TCP("", 1, 80, 1))
			with := without.Next(before, w.State, without.Host)
			for b.Loop() {
				m.apply(without, with)
				m.apply(with, without)
			}
		})
	}
}

// BenchmarkKernelLook reads and compares the table of 5000 endpoints.
func BenchmarkKernelLook(b *testing.B) {
	_, p := crowd(b, 5000)
	m := newMachine(b, lab.NewHost(b))
	m.apply(nil, p)
	for b.Loop() {
		if _, err := m.f.Check(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}

func crowd(b *testing.B, endpoints int) (*scene.World, *plan.Plan) {
	b.Helper()
	w := scene.NewWorld(b).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/16")
	for i := range endpoints {
		addr := netip.AddrFrom4([4]byte{172, 30, byte(i / 200), byte(i%200 + 2)})
		w.Endpoint("a", fmt.Sprintf("%06d", i), addr.String()+"/16", "", scene.TCP("", uint16(10_000+i), 80, 1))
	}
	return w, w.Plan()
}
