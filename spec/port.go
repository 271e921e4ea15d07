package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Proto is a transport protocol by its number (IANA protocol numbers).
type Proto uint8

// The protocols whose ports can be published.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Port is a published port, or a contiguous range of them.
type Port struct {
	Proto Proto
	// Host is the address of the host that is published on: 0.0.0.0 is every
	// IPv4 address, :: every IPv6 address, the zero Addr every one of both.
	Host netip.Addr // e.g. 127.0.0.1
	// HostPort to HostPort+Count-1 lead to ContainerPort to ContainerPort+Count-1.
	HostPort, ContainerPort uint16
	Count                   uint16 // at least 1
}

// Last is the range's last port of the host.
func (p Port) Last() uint16 { return p.HostPort + p.Count - 1 }

// String is docker ps notation, e.g. 127.0.0.1:8080->80/tcp.
func (p Port) String() string {
	prefix := "*:"
	if p.Host.Is4() {
		prefix = p.Host.String() + ":"
	} else if p.Host.Is6() {
		prefix = "[" + p.Host.String() + "]:"
	}
	return prefix + numbers(p.HostPort, p.Count) + "->" + p.Container()
}

// Container is the container's side alone, e.g. 80/tcp or 5000-5010/udp.
func (p Port) Container() string { return numbers(p.ContainerPort, p.Count) + "/" + p.Proto.String() }

func numbers(first, count uint16) string {
	if count > 1 {
		return fmt.Sprintf("%d-%d", first, first+count-1)
	}
	return fmt.Sprint(first)
}

func (p Port) compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Proto, o.Proto), p.Host.Compare(o.Host), cmp.Compare(p.HostPort, o.HostPort),
		cmp.Compare(p.ContainerPort, o.ContainerPort), cmp.Compare(p.Count, o.Count))
}

// Meet reports whether two published host addresses have an address in common.
func Meet(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid() || a == b:
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a.IsUnspecified() || b.IsUnspecified()
}

// JoinPorts sorts ports, drops repeated ones and makes one range of neighbours,
// since an engine sends a range of 1000 as 1000 single ports in any order. A port
// that overlaps another of the list is refused.
func JoinPorts(ports []Port) ([]Port, error) {
	sorted := slices.Clone(ports)
	slices.SortFunc(sorted, Port.compare)
	sorted = slices.Compact(sorted)
	var joined []Port
	for _, p := range sorted {
		if n := len(joined); n > 0 && continues(joined[n-1], p) {
			joined[n-1].Count += p.Count
			continue
		}
		joined = append(joined, p)
	}
	if a, b, clash := firstOverlap(joined); clash {
		return nil, fmt.Errorf("ports %s and %s: %w: they overlap", a, b, ErrInvalid)
	}
	return joined, nil
}

// continues reports whether next is the direct continuation of p on either side.
func continues(p, next Port) bool {
	return p.Proto == next.Proto && p.Host == next.Host && p.Last() < next.HostPort && next.HostPort-p.Last() == 1 &&
		p.ContainerPort < next.ContainerPort && next.ContainerPort-p.ContainerPort == p.Count
}

// firstOverlap looks at the ports in the order of their numbers. Of those before, the one
// that ends last stands for all that were published where it was.
func firstOverlap(ports []Port) (a, b Port, clash bool) {
	byNumber := slices.Clone(ports)
	slices.SortFunc(byNumber, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort))
	})
	farthest := map[area]Port{}
	for i, p := range byNumber {
		if i > 0 && p.Proto != byNumber[i-1].Proto {
			clear(farthest)
		}
		for _, at := range meeting(p.Host) {
			if q, ok := farthest[at]; ok && q.Last() >= p.HostPort {
				return q, p, true
			}
		}
		for _, at := range around(p.Host) {
			if q, ok := farthest[at]; !ok || q.Last() < p.Last() {
				farthest[at] = p
			}
		}
	}
	return Port{}, Port{}, false
}

// area is where ports are published: on this very address, or with within set on any that
// lies in it.
type area struct {
	host   netip.Addr
	within bool
}

// around are the areas that a published address is part of.
func around(host netip.Addr) []area {
	all := []area{{host, false}, {netip.Addr{}, true}}
	if host.IsValid() {
		return append(all, area{Every(host.Is4()), true})
	}
	return append(all, area{Every(true), true}, area{Every(false), true})
}

// meeting are areas of which one is around whatever meets the address, and none is around
// anything else.
func meeting(host netip.Addr) []area {
	if !host.IsValid() || host.IsUnspecified() {
		return []area{{host, true}}
	}
	return []area{{host, false}, {Every(host.Is4()), false}, {netip.Addr{}, false}}
}
