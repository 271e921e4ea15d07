package link_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// watch counts wakes on a machine until the test ends. It returns after the first,
// which says that it listens.
func (m *machine) watch() <-chan struct{} {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	wakes, done := make(chan struct{}, 1000), make(chan error, 1)
	go m.Do(func() { done <- m.kernel.Watch(ctx, func() { wakes <- struct{}{} }) })
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("watch: %v", err)
		}
	})
	m.mustWake(wakes)
	return wakes
}

func (m *machine) mustWake(wakes <-chan struct{}) {
	m.t.Helper()
	select {
	case <-wakes:
	case <-time.After(5 * time.Second):
		m.t.Fatal("nobody woke")
	}
}

// drain waits until what happened so far has woken whom it would wake, and counts.
func (m *machine) drain(wakes <-chan struct{}) (count int) {
	for {
		select {
		case <-wakes:
			count++
		case <-time.After(100 * time.Millisecond):
			return count
		}
	}
}

func TestKernelOwnChangesWakeNobody(t *testing.T) {
	m := newMachine(t)
	host := m.look()
	some, all := planFor(host, usual()[:2]...), planFor(host, usual()...)
	wakes := m.watch()
	m.drain(wakes)
	m.mustApply(nil, some)
	m.mustApply(some, all)
	m.mustApply(nil, all)
	m.mustApply(all, some)
	// Events come in their order, so when this one has woken all others are through.
	m.Run("ip", "link", "set", "far1", "alias", "foreign")
	m.mustWake(wakes)
	if more := m.drain(wakes); more != 0 {
		t.Errorf("our own doing woke %d times", more)
	}
}

func TestKernelForeignChangesWake(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	wakes := m.watch()
	for _, row := range []struct{ name, change string }{
		{"a bridge goes down", "ip link set BR down"},
		{"a bridge is deleted", "ip link del BR"},
		{"a bridge is renamed", "ip link set BR down; ip link set BR name other"},
		{"a gateway goes", "ip addr del 10.1.0.1/24 dev BR"},
		{"a gateway of IPv6 goes", "ip addr del fd00:1::1/64 dev BR"},
		{"an address comes", "ip addr add 10.9.0.1/24 dev BR"},
		{"a pair is deleted", "ip link del VE"},
		{"a pair loses its master", "ip link set VE nomaster"},
		{"a pair is renamed", "ip link set VE down; ip link set VE name other"},
		{"a bridge loses its mark", "ip link set BR alias ''"},
		{"a port has another mark", "ip link set VE alias mine"},
		{"a port has another MAC", "ip link set VE address 02:00:00:00:00:77"},
		{"a port has an address", "ip addr add 10.9.0.1/24 dev VE"},
		{"a port loses its hairpin", "bridge link set dev VE hairpin off"},
		{"a port is isolated", "bridge link set dev VE isolated on"},
		{"a bridge stops forwarding", "echo 0 >/proc/sys/net/ipv4/conf/BR/forwarding"},
		{"an uplink stops forwarding", "echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding"},
		{"ip_forward is turned on", "echo 1 >/proc/sys/net/ipv4/ip_forward"},
		{"ip_forward is turned off", "echo 0 >/proc/sys/net/ipv4/ip_forward"},
		{"an uplink appears", "ip link add eth1 type bridge; ip addr add 203.0.113.1/24 dev eth1; ip link set eth1 up"},
		{"an uplink loses its address", "ip addr del 203.0.113.1/24 dev eth1"},
		{"an uplink goes down", "ip link set tun0 down"},
		{"an uplink is deleted", "ip link del eth0"},
	} {
		t.Run(row.name, func(*testing.T) {
			m.drain(wakes)
			m.Run("sh", "-ec", strings.NewReplacer("BR", "dbraa0000000000", "VE", "dbva10000000000").Replace(row.change))
			m.mustWake(wakes)
			m.mustApply(nil, want)
		})
	}
}

func TestKernelLostEventsWake(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wakes, done := make(chan struct{}), make(chan error, 1)
	go m.Do(func() { done <- m.kernel.Watch(ctx, func() { wakes <- struct{}{} }) })

	// While whoever is woken does not come, more events pass than can wait, of a
	// kind that alone would wake nobody.
	var harmless strings.Builder
	for n := range 10000 {
		fmt.Fprintf(&harmless, "link set dbva10000000000 txqueuelen %d\n", 100+n%2)
	}
	m.mustWake(wakes) // it listens
	m.Run("ip", "link", "set", "far1", "alias", "foreign")
	m.Feed(harmless.String(), "ip", "-batch", "-")
	m.mustWake(wakes) // by the foreign change
	m.mustWake(wakes) // by the loss
	cancel()
	must(t, <-done)
}
