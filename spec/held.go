package spec

import (
	"cmp"
	"fmt"
	"net/netip"
)

// portKey orders published ports by protocol, address and last number. What is published
// on one address is disjoint, so of all that is there, one alone can overlap a port: the
// first that does not end before it.
type portKey struct {
	proto Proto
	host  netip.Addr
	last  uint16
}

func (k portKey) Compare(o portKey) int {
	return cmp.Or(cmp.Compare(k.proto, o.proto), k.host.Compare(o.host), cmp.Compare(k.last, o.last))
}

func keyOf(p Port) portKey { return portKey{p.Proto, p.Host, p.Last()} }

type portHeld struct {
	port              Port
	network, endpoint ID
}

func (h *portHeld) isOf(network, endpoint ID) bool {
	return h.network == network && h.endpoint == endpoint
}

func (h *portHeld) refuse(p Port) error {
	return &HeldError{Network: h.network, Holder: h.endpoint, What: fmt.Sprintf("port %s", p), Has: fmt.Sprintf("%s is published by", h.port)}
}

// holder finds a published port that overlaps p.
func (s *State) holder(p Port) *portHeld {
	first, wide := p.Host, !p.Host.IsValid() || p.Host.IsUnspecified()
	if !first.IsValid() {
		first = Every(true)
	}
	held := s.holderOn(netip.Addr{}, p)
	switch {
	case held != nil:
		return held
	case wide:
		return s.holderFrom(first, p)
	}
	return cmp.Or(s.holderOn(Every(first.Is4()), p), s.holderOn(first, p))
}

// holderOn is holder for what is published on exactly this address.
func (s *State) holderOn(host netip.Addr, p Port) *portHeld {
	k, held := s.seek(portKey{p.Proto, host, p.HostPort})
	if held == nil || k.proto != p.Proto || k.host != host || held.port.HostPort > p.Last() {
		return nil
	}
	return held
}

// holderFrom is holder for what is published on any address, from this one on, that p
// meets. It goes from address to address, and on each looks at one port.
func (s *State) holderFrom(host netip.Addr, p Port) *portHeld {
	for host.IsValid() {
		k, held := s.seek(portKey{p.Proto, host, p.HostPort})
		switch {
		case held == nil || k.proto != p.Proto || !Meet(k.host, p.Host):
			return nil
		case k.last < p.HostPort:
			host = k.host // here begins another address
		case held.port.HostPort <= p.Last():
			return held
		default:
			host = after(k.host)
		}
	}
	return nil
}

// after is the next address, those of IPv6 behind those of IPv4; the zero Addr behind all.
func after(host netip.Addr) netip.Addr {
	next := host.Next()
	if !next.IsValid() && host.Is4() {
		return Every(false)
	}
	return next
}

// seek finds the first published port that does not stand before a key.
func (s *State) seek(first portKey) (portKey, *portHeld) {
	for k, held := range s.ports.From(first) {
		return k, held
	}
	return portKey{}, nil
}
