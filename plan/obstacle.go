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
}

// Overlap is a subnet of a network with what of the host lies in it or around it.
type Overlap struct {
	Subnet   netip.Prefix
	Obstacle Obstacle
}

func (o Overlap) String() string {
	return fmt.Sprintf("subnet %s overlaps %s of this host", o.Subnet, o.Obstacle.What)
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
