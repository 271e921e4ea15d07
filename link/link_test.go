package link

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

func TestInterruptedDumpIsRepeated(t *testing.T) {
	for name, row := range map[string]struct {
		errs []error // of the first dumps; later ones succeed
		want error
	}{
		"a dump that succeeds is the answer":          {nil, nil},
		"a changed table is read again":               {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted}, nil},
		"an interrupted call is made again":           {[]error{unix.EINTR}, nil},
		"any other error is the answer":               {[]error{unix.EPERM}, unix.EPERM},
		"a table that never rests is told in the end": {slices.Repeat([]error{netlink.ErrDumpInterrupted}, 100), netlink.ErrDumpInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, err := retried(func() (int, error) {
				calls++
				if calls <= len(row.errs) {
					return 0, row.errs[calls-1]
				}
				return calls, nil
			})
			if !errors.Is(err, row.want) || err == nil && got != len(row.errs)+1 {
				t.Errorf("after %d calls: %d, %v; want %v", calls, got, err, row.want)
			}
		})
	}
}

func TestSettingIsFoundAgainByItsName(t *testing.T) {
	for _, u := range []foundSetting{
		{"eth0", plan.Setting{Family: 4, Name: "forwarding"}, false},
		{"br-lan", plan.Setting{Family: 4, Name: "forwarding"}, true},
		{"eth0.100", plan.Setting{Family: 6, Name: "force_forwarding"}, false},
		{"all", plan.Setting{Family: 6, Name: "forwarding"}, false},
	} {
		if got, ok := parseKey(u.key()); !ok || got != u {
			t.Errorf("%s: %v, %t", u.key(), got, ok)
		}
	}
	for _, key := range []string{"", "ipv4", "ipv4.eth0", "ipx.eth0.forwarding", "ipv4..forwarding", "bridge.br-lan", "address.br-lan.172.30.0.1/24"} {
		if u, ok := parseKey(key); ok {
			t.Errorf("%q is no setting, got %v", key, u)
		}
	}
}

func TestSettingsArePutBackInReverse(t *testing.T) {
	var got []string
	for _, u := range remembered(map[string]int{"ipv6.eth0.accept_ra": 1, "ipv4.eth1.forwarding": 0, "ipv6.all.forwarding": 0, "nonsense": 1}) {
		got = append(got, u.key())
	}
	want := []string{"ipv6.all.forwarding", "ipv4.eth1.forwarding", "ipv6.eth0.accept_ra"}
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}
