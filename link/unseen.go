package link

import (
	"os"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// lookAtBridged finds what of the frames that pass from port to port of a bridge no hook
// of IPv4 and IPv6 is shown, and notes for Poll what it found.
func (k *Kernel) lookAtBridged(host *plan.Host) {
	host.Unseen4, host.Unseen6 = unseen("iptables"), unseen("ip6tables")
	k.glimpsed.Or(glimpse(host))
}

// glimpse is one way that frames of bridges can be seen, as a set of such.
func glimpse(host *plan.Host) uint32 {
	way := 0
	if host.Unseen4 {
		way |= 1
	}
	if host.Unseen6 {
		way |= 2
	}
	return 1 << way
}

// unseen reads one switch of br_netfilter's, which the kernel keeps at 0 or 1. Without
// the module there is none, and nothing is shown.
func unseen(by string) bool {
	text, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + by)
	return err != nil || strings.TrimSpace(string(text)) == "0"
}
