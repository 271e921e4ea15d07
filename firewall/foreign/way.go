package foreign

import (
	"net"
	"net/netip"

	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/plan"
)

// way is how packets of one family pass the host from or to one of our bridges.
type way struct {
	bridge  string
	name    string // what a rule calls the interface by which they come
	family  int
	seen    string // where on the way a chain sees them, e.g. abroad
	bridged bool   // from port to port, and no router sees them
	talks   []talk
}

// talk is a conversation: a packet that begins it, and an answer.
type talk []packet

// course is what two ways have in common that differ by bridge and addresses only.
type course struct {
	family int
	seen   string
}

func (w way) course() course { return course{w.family, w.seen} }

const (
	abroad     = "abroad"
	portwise   = "from port to port"
	bridgewise = "within the bridge"
)

func (w way) packet(i int) packet { return w.talks[i/len(w.talks[0])][i%len(w.talks[0])] }

func (w way) seenBy(f nftables.TableFamily) bool {
	switch f {
	case nftables.TableFamilyBridge:
		return w.bridged
	case nftables.TableFamilyIPv4:
		return !w.bridged && w.family == 4
	case nftables.TableFamilyIPv6:
		return !w.bridged && w.family == 6
	}
	return !w.bridged
}

// waysOf are those that the plan means to be open.
func waysOf(want *plan.Plan) ([]way, error) {
	indexes, err := linkIndexes()
	if err != nil {
		return nil, err
	}
	uplinks := []string{""}
	if len(want.Host.Uplinks) > 0 {
		uplinks = nil
	}
	for _, u := range want.Host.Uplinks {
		uplinks = append(uplinks, u.Name)
	}
	var all []way
	for _, n := range want.Networks.All() {
		for _, s := range n.Zone.Subnets {
			v := village{bridge: n.Bridge.Name, one: s.Prefix.Addr().Next(), family: 6, indexes: indexes}
			v.two = v.one.Next()
			if v.one.Is4() {
				v.family = 4
			}
			name := n.Bridge.Name
			if !n.Bridge.Named {
				name = "dbr*"
			}
			if !n.Zone.Internal {
				all = append(all, way{bridge: v.bridge, name: name, family: v.family, seen: abroad, talks: v.abroad(uplinks)})
			}
			if n.Zone.Apart {
				continue
			}
			all = append(all, way{bridge: v.bridge, name: "dbv*", family: v.family, seen: portwise, bridged: true, talks: []talk{v.within(port)}})
			if !want.Host.Unseen(v.family) {
				all = append(all, way{bridge: v.bridge, name: name, family: v.family, seen: bridgewise, talks: []talk{v.within(v.bridge)}})
			}
		}
	}
	return all, nil
}

// port stands for any container's port of a bridge: rules can name them by a wildcard
// only.
const port = "dbv000000000000"

// village is a subnet of a network with two of its addresses.
type village struct {
	bridge   string
	family   int
	one, two netip.Addr
	indexes  map[string]int
}

// abroad are, for each uplink, a conversation that a container begins and one with a
// published port.
func (v village) abroad(uplinks []string) []talk {
	var all []talk
	for _, u := range uplinks {
		to := packet{bridge: v.bridge, in: v.bridge, out: u, from: v.one, family: v.family, indexes: v.indexes}
		from := packet{bridge: v.bridge, in: u, out: v.bridge, to: v.one, family: v.family, indexes: v.indexes}
		all = append(all, talk{to.as(stateNew, 0), from.as(stateEstablished, 0)},
			talk{from.as(stateNew, statusDNAT), to.as(stateEstablished, statusDNAT)})
	}
	return all
}

// within is a conversation between containers, as seen by port or by bridge.
func (v village) within(link string) talk {
	p := packet{bridge: v.bridge, in: link, out: link, from: v.one, to: v.two, family: v.family, indexes: v.indexes}
	return talk{p.as(stateNew, 0), p.as(stateEstablished, 0)}
}

func (p packet) as(state, status uint32) packet {
	p.state, p.status = state, status
	return p
}

func linkIndexes() (map[string]int, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	indexes := map[string]int{}
	for _, l := range links {
		indexes[l.Name] = l.Index
	}
	return indexes, nil
}
