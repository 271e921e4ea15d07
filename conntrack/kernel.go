package conntrack

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// remembered asks once for each pair of addresses.
func remembered(ask exit) exit {
	type way struct {
		bridge   string
		from, to netip.Addr
	}
	known := map[way]string{}
	return func(bridge string, from, to netip.Addr) string {
		w := way{bridge, from, to}
		link, found := known[w]
		if !found {
			link = ask(bridge, from, to)
			known[w] = link
		}
		return link
	}
}

// exit asks the kernel's routes.
func (t *Table) exit(bridge string, from, to netip.Addr) string {
	options := &netlink.RouteGetOptions{Iif: bridge}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := t.routes.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST {
		return ""
	}
	link, err := t.routes.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

// awaitPackets returns when what has met the rules of before has made its entry. The kernel
// passes on each packet in one read-side section of RCU, and waits for those that are under
// way (MEMBARRIER_CMD_GLOBAL, some ten milliseconds). Where it cannot, a packet may be
// judged by nobody, if it is under way in the very moment.
func awaitPackets() {
	const global = 1
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
}
