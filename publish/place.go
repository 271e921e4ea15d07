package publish

import (
	"fmt"
	"iter"
	"net/netip"
	"strconv"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
)

// place is what one socket holds.
type place struct {
	proto spec.Proto
	host  netip.Addr // the zero Addr: every address of both families
	port  uint16
}

func (p place) String() string { return object(p.proto, p.host, strconv.Itoa(int(p.port))) }

// object names a port or a range, e.g. port 8080/tcp on 0.0.0.0.
func object(proto spec.Proto, host netip.Addr, numbers string) string {
	on := "every address"
	if host.IsValid() {
		on = host.String()
	}
	return fmt.Sprintf("port %s/%s on %s", numbers, proto, on)
}

// named is object of a whole range.
func named(r spec.Port) string {
	numbers := strconv.Itoa(int(r.HostPort))
	if r.Count > 1 {
		numbers = fmt.Sprintf("%d-%d", r.HostPort, r.Last())
	}
	return object(r.Proto, r.Host, numbers)
}

// places are the single ports of ranges that the kernel has sockets for, each with what
// is served there.
func places(ports []plan.Held) iter.Seq2[place, proxy.Route] {
	return func(yield func(place, proxy.Route) bool) {
		for _, r := range ports {
			if r.Proto == spec.SCTP && !hasSCTP() {
				continue
			}
			for i := range r.Count {
				if !yield(place{r.Proto, r.Host, r.HostPort + i}, proxy.Route{Proto: r.Proto, Port: r.ContainerPort + i, V4: r.Proxy4, V6: r.Proxy6}) {
					return
				}
			}
		}
	}
}

// meet reports whether a socket at addr can stand in the way of one at host. A
// wildcard of IPv6 may be of both families, which the kernel's list does not say.
func meet(host, addr netip.Addr) bool {
	switch {
	case !host.IsValid() || !addr.IsValid() || host == addr || addr == netip.IPv6Unspecified():
		return true
	case host.Is4() != addr.Is4():
		return false
	}
	return host.IsUnspecified() || addr.IsUnspecified()
}
