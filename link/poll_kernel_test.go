package link_test

import (
	"context"
	"strings"
	"testing"
)

// TestKernelSettingsWithoutEventsAreFollowed is about what the kernel tells nobody of.
func TestKernelSettingsWithoutEventsAreFollowed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	m.Run("ip", "link", "set", "dbpa10000000000", "up")
	ctx, cancel := context.WithCancel(context.Background())
	wakes, done := make(chan struct{}, 100), make(chan error, 1)
	go m.Do(func() { done <- m.kernel.Poll(ctx, func() { wakes <- struct{}{} }) })
	m.mustWake(wakes) // at its beginning
	for _, change := range []string{
		"echo 0 >/proc/sys/net/ipv4/conf/BR/route_localnet",
		"echo 1 >/proc/sys/net/ipv6/conf/BR/accept_ra",
		"echo 1 >/proc/sys/net/ipv6/conf/BR/accept_ra", // and again, after it was mended
		"echo 0 >/proc/sys/net/ipv6/conf/VE/disable_ipv6",
	} {
		m.Run("sh", "-ec", strings.NewReplacer("BR", "dbraa0000000000", "VE", "dbva10000000000").Replace(change))
		m.mustWake(wakes)
		m.mustApply(nil, want)
		m.mustBeAsPlanned(want)
	}
	if len(wakes) > 0 {
		t.Error("what was mended woke again")
	}
	// Whoever looked in between acts on what is so no more.
	m.Set("net/bridge/bridge-nf-call-iptables", "0")
	if !m.look().Unseen4 {
		t.Error("br_netfilter's switch was not found")
	}
	m.Set("net/bridge/bridge-nf-call-iptables", "1")
	m.mustWake(wakes)
	cancel()
	must(t, <-done)
}
