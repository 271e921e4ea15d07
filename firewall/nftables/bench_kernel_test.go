package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

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

// BenchmarkKernelLook reads and compares the tables of many ports, and then asks again,
// when nobody can have changed them.
func BenchmarkKernelLook(b *testing.B) {
	p := harbour(b)
	m := newMachine(b, lab.NewHost(b))
	m.apply(nil, p)
	for name, forget := range map[string]bool{"reading": true, "knowing": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if forget {
					m.f.known = nil
				}
				if drift, err := m.f.Check(context.Background(), p); err != nil || len(drift) > 0 {
					b.Fatal(drift, err)
				}
			}
		})
	}
}

// BenchmarkKernelRebuild makes the tables of many ports anew, beside what nft needs to
// flush them.
func BenchmarkKernelRebuild(b *testing.B) {
	p := harbour(b)
	m := newMachine(b, lab.NewHost(b), Shared)
	m.apply(nil, p)
	for b.Loop() {
		b.StopTimer()
		m.Run("nft", "flush", "ruleset")
		b.StartTimer()
		m.apply(nil, p)
	}
}

// TestKernelManyPortsAreReadAndMadeAnewAtOnce since for that long packets meet no rules.
func TestKernelManyPortsAreReadAndMadeAnewAtOnce(t *testing.T) {
	const wanted, patience = 500 * time.Millisecond, 4 // times, on a busy machine
	p := harbour(t)
	m := newMachine(t, lab.NewHost(t), Shared)
	m.apply(nil, p)
	for what, do := range map[string]func(){
		"read": func() {
			if drift := m.drift(p); len(drift) > 0 {
				t.Errorf("%d differences, the first is %s", len(drift), drift[0])
			}
		},
		"made anew": func() { m.apply(nil, p) },
	} {
		m.Run("nft", "flush", "ruleset")
		if what == "read" {
			m.apply(nil, p)
		}
		begun := time.Now()
		do()
		took := time.Since(begun)
		t.Logf("%d elements are %s in %s", len(elements(p)), what, took)
		if took > patience*wanted {
			t.Errorf("%s in %s, want %s", what, took, wanted)
		}
	}
}

// harbour has 300 endpoints and 5000 published ports, each in both families.
func harbour(t testing.TB) *plan.Plan {
	t.Helper()
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/16", "fd00:30::/64")
	next := uint16(10_000)
	for i := range uint16(300) {
		var ports []spec.Port
		for j := range uint16(17) {
			if next < 15_000 {
				ports = append(ports, scene.TCP("", next, 80+j*2, 1))
				next++
			}
		}
		addr := netip.AddrFrom4([4]byte{172, 30, byte(i / 200), byte(i%200 + 2)})
		w.Endpoint("a", fmt.Sprintf("%06d", i), addr.String()+"/16", fmt.Sprintf("fd00:30::%x/64", i+2), ports...)
	}
	return w.Plan()
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
