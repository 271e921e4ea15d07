package firewall

import (
	"context"
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestKernelWhatWeWriteWakesNoMoreThanItMust publishes a port by a rule in each family:
// a transaction of iptables-nft is nobody's to its listeners, and all else is known for
// ours.
func TestKernelWhatWeWriteWakesNoMoreThanItMust(t *testing.T) {
	for name, row := range map[string]struct {
		mode Mode
		kind string
		most int32
	}{
		"nftables": {NFTables, "", 0}, "iptables-nft": {IPTables, "nft", 2}, "iptables-legacy": {IPTables, "legacy", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machine{Host: lab.NewHost(t), t: t}
			w := scene.Everything(t)
			have := w.Plan()
			f := m.change(row.mode, row.kind, have)
			woken := m.wakes(f)
			m.Do(func() {
				want := w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 90, 1)).Plan()
				if err := f.Apply(context.Background(), have, want); err != nil {
					t.Error(err)
				}
			})
			<-time.After(3 * time.Second) // more than a poll
			if got := woken.Load(); got > row.most {
				t.Errorf("woken %d times by what we did, want %d at most", got, row.most)
			}
		})
	}
}

// wakes counts how often any of a firewall's watches wakes, once all have begun and
// until the test ends.
func (m *machine) wakes(f *Firewall) *atomic.Int32 {
	m.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	m.t.Cleanup(func() { stop(); all.Wait() })
	var count atomic.Int32
	for _, watch := range f.Watches() {
		all.Go(func() {
			m.Do(func() {
				if err := watch(ctx, func() { count.Add(1) }); err != nil {
					m.t.Error(err)
				}
			})
		})
	}
	// Legacy iptables wakes when it begins, and nftables by then listens (NFNLGRP_NFTABLES
	// of NETLINK_NETFILTER).
	listens := regexp.MustCompile(`(?m)^\S+ +12 +\d+ +00000040 `)
	lab.Until(m.t, "all watches have begun", func() error {
		if int(count.Load())+1 < len(f.Watches()) || !listens.MatchString(m.Run("cat", "/proc/net/netlink")) {
			return errors.New("not yet")
		}
		return nil
	})
	count.Store(0)
	return &count
}
