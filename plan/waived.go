package plan

import (
	"fmt"

	"github.com/drawbridge-net/drawbridge/spec"
)

// Waived is what a network asks for and nobody holds on this host, for want of a firewall,
// in words for a person: e.g. internal is only that it has no default route.
func (h *Host) Waived(n *spec.Network) []string {
	if !h.NoFirewall {
		return nil
	}
	var all []string
	say := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	say(n.Internal, "it is internal only by having no default route: who adds one, or has a route to it, gets through wherever the host forwards")
	say(n.Apart, "its containers are kept apart within the bridge, and not by way of the host where that forwards")
	for _, mode := range []struct {
		family int
		mode   spec.GatewayMode
	}{{4, n.Mode4}, {6, n.Mode6}} {
		say(mode.mode == spec.Routed || mode.mode == spec.Unprotected, "gateway mode %s opens nothing of IPv%d, nor is anything closed", mode.mode, mode.family)
	}
	say(len(n.Trusted) > 0, "interfaces that are trusted reach what all others reach")
	say(n.Masquerade && (n.Source4.IsValid() || n.Source6.IsValid()), "its containers do not leave by the chosen address of the host")
	return all
}
