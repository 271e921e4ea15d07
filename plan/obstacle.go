package plan

import (
	"fmt"
	"net/netip"

	"github.com/drawbridge-net/drawbridge/spec"
)

// Obstacle is something that the host has for its own and that a subnet should not
// overlap.
type Obstacle struct {
	Prefix netip.Prefix
	What   string // e.g. address 192.168.1.7/24 of eth0
	Link   string // e.g. eth0; "" for none
	// Weak ones may be overlapped by whoever means it, or when nothing else is free.
	Weak bool
	// Tunnel is a route into a tunnel, which has no link's other machines behind it. A
	// subnet may lie in it, like in any route, but not take all of it.
	Tunnel bool
}

// Overlap is a subnet of a network with what of the host lies in it or around it.
type Overlap struct {
	Subnet   netip.Prefix
	Obstacle Obstacle
}

func (o Overlap) String() string {
	return fmt.Sprintf("subnet %s overlaps %s of this host", o.Subnet, o.Obstacle.What)
}

// Allowed reports whether a subnet that a person names may do so.
func (o Overlap) Allowed() bool {
	return o.Obstacle.Weak || o.Obstacle.Tunnel && o.Obstacle.Prefix.Bits() < o.Subnet.Bits()
}

// Overlaps lists what of the host the subnets of a network overlap. What belongs to
// the network's own bridge is none of it.
func Overlaps(n *spec.Network, obstacles []Obstacle) []Overlap {
	var all []Overlap
	for _, p := range n.Pools {
		for _, o := range obstacles {
			if o.Prefix.Overlaps(p.Prefix) && (n.Bridge == "" || o.Link != n.Bridge) {
				all = append(all, Overlap{p.Prefix, o})
			}
		}
	}
	return all
}
