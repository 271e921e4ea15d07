package iptables

import (
	"os"
	"strings"
)

// Blind reports whether this firewall does not see what of a family, 4 or 6, passes from
// port to port of one bridge. Without br_netfilter it does not, with it as the host's
// sysctl says. What cannot be read is taken for a no: whoever keeps containers apart by
// another way as well harms nobody but those who publish to a peer on their bridge.
func Blind(family int) bool {
	name := "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if family == 6 {
		name = "/proc/sys/net/bridge/bridge-nf-call-ip6tables"
	}
	text, err := os.ReadFile(name)
	return err != nil || strings.TrimSpace(string(text)) == "0"
}
