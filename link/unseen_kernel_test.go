package link_test

import (
	"context"
	"errors"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelWhatBridgesShowNobodyIsFollowed in either family, by a look and by whoever
// waits to be woken.
func TestKernelWhatBridgesShowNobodyIsFollowed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if _, err := m.Try("test", "-e", "/proc/sys/net/bridge"); err != nil {
		if host := m.look(); !host.Unseen4 || !host.Unseen6 {
			t.Errorf("without br_netfilter: unseen is IPv4 %t, IPv6 %t", host.Unseen4, host.Unseen6)
		}
		t.Skip("the kernel lacks br_netfilter")
	}
	ctx, cancel := context.WithCancel(context.Background())
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		m.Do(func() { done <- m.kernel.Poll(ctx, func() { woken <- struct{}{} }) })
	}()
	<-woken // at its beginning
	for _, row := range []struct {
		name, value      string
		unseen4, unseen6 bool
	}{
		{"iptables", "0", true, false},
		{"ip6tables", "0", true, true},
		{"iptables", "1", false, true},
		{"ip6tables", "1", false, false},
	} {
		m.Set("net/bridge/bridge-nf-call-"+row.name, row.value)
		if host := m.look(); host.Unseen4 != row.unseen4 || host.Unseen6 != row.unseen6 {
			t.Errorf("%s is %s: unseen is IPv4 %t, IPv6 %t", row.name, row.value, host.Unseen4, host.Unseen6)
		}
		lab.Until(t, "woken by "+row.name, func() error {
			if len(woken) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		<-woken
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
