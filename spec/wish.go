package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// PortRange is every port from First to Last.
type PortRange struct{ First, Last uint16 }

func (r PortRange) String() string { return numbers(r.First, r.Last-r.First+1) }

func (r PortRange) has(port uint16) bool { return r.First <= port && port <= r.Last }

// Wish is a port whose number on the host is to be chosen: one of Range, or where that is
// zero an ephemeral one. Its HostPort is 0 and its Count 1.
type Wish struct {
	Port
	Range PortRange
}

// compare puts those that name a range first, of them those first whose range ends first:
// if each takes the first number that is free, as many as possible get one.
func (w Wish) compare(o Wish) int {
	return cmp.Or(cmp.Compare(w.Range.Last-1, o.Range.Last-1), // 0 comes last
		cmp.Compare(w.Range.First, o.Range.First), cmp.Compare(w.Proto, o.Proto),
		cmp.Compare(w.ContainerPort, o.ContainerPort), w.Host.Compare(o.Host))
}

// group are wishes that get one number: they differ in the host's address alone, so that a
// container is reached by the same number in both families.
type group struct {
	Wish
	hosts []netip.Addr // none meets another
}

// at are the ports of a group that gets this number.
func (g *group) at(number uint16) []Port {
	var all []Port
	for _, host := range g.hosts {
		p := g.Port
		p.Host, p.HostPort = host, number
		all = append(all, p)
	}
	return all
}

// String is what somebody wished, e.g. a port of 8000-8010 for 80/tcp on every address.
func (g *group) String() string {
	what := "an ephemeral port"
	if g.Range != (PortRange{}) {
		what = "a port of " + g.Range.String()
	}
	on := "every address"
	for i, host := range g.hosts {
		switch {
		case !host.IsValid():
		case i == 0:
			on = host.String()
		case i == 3:
			return fmt.Sprintf("%s for %s on %s and others", what, g.Container(), on)
		default:
			on += " and " + host.String()
		}
	}
	return fmt.Sprintf("%s for %s on %s", what, g.Container(), on)
}

// groups are the wishes in the order in which numbers are chosen for them. Where one is
// repeated, or made on an address and on all of them, there are as many groups.
func groups(wishes []Wish) []*group {
	slices.SortFunc(wishes, Wish.compare)
	var all []*group
	var begin int           // of those in all that are like the present one
	turns := map[area]int{} // in which of those an area can be next
	for i, w := range wishes {
		host := w.Host
		w.Host = netip.Addr{}
		if i == 0 || all[len(all)-1].Wish != w {
			begin = len(all)
			clear(turns)
		}
		turn := 0
		for _, at := range meeting(host) {
			turn = max(turn, turns[at])
		}
		for _, at := range around(host) {
			turns[at] = max(turns[at], turn+1)
		}
		if begin+turn == len(all) {
			all = append(all, &group{Wish: w})
		}
		all[begin+turn].hosts = append(all[begin+turn].hosts, host)
	}
	return all
}
