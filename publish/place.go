package publish

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
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

// places are the single ports of ranges, each with what is served there.
func places(ports []plan.Held) iter.Seq2[place, proxy.Route] {
	return func(yield func(place, proxy.Route) bool) {
		for _, r := range ports {
			for i := range r.Count {
				if !yield(place{r.Proto, r.Host, r.HostPort + i}, proxy.Route{Proto: r.Proto, Port: r.ContainerPort + i, V4: r.Proxy4, V6: r.Proxy6}) {
					return
				}
			}
		}
	}
}

// holdable are those of ports that the kernel has sockets for.
func holdable(ports []plan.Held, sctp func() bool) []plan.Held {
	unheld := func(r plan.Held) bool { return r.Proto == spec.SCTP && !sctp() }
	if !slices.ContainsFunc(ports, unheld) {
		return ports
	}
	return slices.DeleteFunc(slices.Clone(ports), unheld)
}
