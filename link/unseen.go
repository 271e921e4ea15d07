package link

import (
	"os"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

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
