package link

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

const pollEvery = 2 * time.Second

// lookAtBridged finds what of the frames that pass from port to port of a bridge no hook
// of IPv4 and IPv6 is shown.
func lookAtBridged(host *plan.Host) {
	host.Unseen4, host.Unseen6 = unseen("iptables"), unseen("ip6tables")
}

// unseen reads one switch of br_netfilter's, which the kernel keeps at 0 or 1. Without
// the module there is none, and nothing is shown.
func unseen(by string) bool {
	text, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + by)
	return err != nil || strings.TrimSpace(string(text)) == "0"
}

// WatchBridged calls wake once at its beginning and, until ctx ends, when br_netfilter has
// come or one of its switches is another. No event tells of that, so it polls.
func (k *Kernel) WatchBridged(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var before, now plan.Host
	lookAtBridged(&before)
	wake() // for what happened before that
	for ; ; before = now {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		lookAtBridged(&now)
		if now.Unseen4 != before.Unseen4 || now.Unseen6 != before.Unseen6 {
			wake()
		}
	}
}
