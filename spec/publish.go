package spec

import (
	"iter"
	"net/netip"
	"slices"
)

// Publish makes ports the published ports of an endpoint, in the place of those
// that it had. A port that another one has is refused by a HeldError.
//
// Two endpoints of one sandbox may be its gateways, one for each family. Only the
// one for IPv4 is told so (onlyIPv4), before or after the other was asked to publish,
// and not even that one if it was asked before the other joined. But an engine revokes
// before it publishes, so who still has ports still is a gateway. So the one takes
// IPv4, and whoever else is in the sandbox what remains.
func (s *State) Publish(network, id ID, ports []Port, onlyIPv4 bool) error {
	_, ep, err := s.Endpoint(network, id)
	if err != nil {
		return err
	}
	shared, err := s.hasIPv4Gateway(network, ep)
	if err != nil {
		return err
	}
	joined, err := JoinPorts(portion(ep, ports, onlyIPv4, shared))
	if err != nil || slices.Equal(ep.Ports, joined) && ep.OnlyIPv4 == onlyIPv4 {
		return err
	}
	s.Unpublish(network, id)
	if onlyIPv4 {
		if err := s.leaveIPv6(network, ep); err != nil {
			return err
		}
	}
	for _, p := range joined {
		if err := s.hold(portHeld{p, network, id}, ep.Sandbox); err != nil {
			return err
		}
	}
	n, err := s.Network(network)
	if err != nil {
		return err
	}
	changed := *ep
	changed.Ports, changed.OnlyIPv4 = joined, onlyIPv4
	s.put(n, &changed)
	return nil
}

// hold enters one port of an endpoint. Others of the same sandbox that have some of it
// are no longer its gateways, and lose all that they have.
func (s *State) hold(p portHeld, sandbox string) error {
	held := s.holder(p.port)
	for held != nil && !held.isOf(p.network, p.endpoint) && s.inSandbox(held, sandbox) {
		s.Unpublish(held.network, held.endpoint)
		held = s.holder(p.port)
	}
	if held != nil {
		return held.refuse(p.port)
	}
	s.ports = s.ports.With(keyOf(p.port), &p)
	return nil
}

func (s *State) inSandbox(held *portHeld, sandbox string) bool {
	_, in := s.members.Get(member{sandbox, held.network, held.endpoint})
	return in && sandbox != ""
}

// mates yields the other endpoints of an endpoint's sandbox, with their networks.
func (s *State) mates(network ID, ep *Endpoint) iter.Seq2[ID, *Endpoint] {
	return func(yield func(ID, *Endpoint) bool) {
		for m := range s.members.From(member{sandbox: ep.Sandbox}) {
			if m.sandbox != ep.Sandbox || ep.Sandbox == "" {
				return
			}
			_, mate, err := s.Endpoint(m.network, m.endpoint)
			if err == nil && (m.network != network || m.endpoint != ep.ID) && !yield(m.network, mate) {
				return
			}
		}
	}
}

// hasIPv4Gateway reports whether another endpoint of the sandbox is its gateway for
// IPv4 and no more. One that has no IPv6 is told so here, if nobody else did.
func (s *State) hasIPv4Gateway(network ID, ep *Endpoint) (bool, error) {
	for at, mate := range s.mates(network, ep) {
		if mate.OnlyIPv4 {
			return true, nil
		}
		if len(mate.Ports) > 0 && !mate.IPv6.IsValid() && ep.IPv6.IsValid() {
			return true, s.Publish(at, mate.ID, mate.Ports, true)
		}
	}
	return false, nil
}

// leaveIPv6 takes from the other endpoints of a sandbox all ports but those of IPv6.
func (s *State) leaveIPv6(network ID, ep *Endpoint) error {
	for at, mate := range s.mates(network, ep) {
		if err := s.Publish(at, mate.ID, ofFamily(mate.Ports, false), false); err != nil {
			return err
		}
	}
	return nil
}

// portion is what of ports is an endpoint's to publish. It may share the sandbox with
// another gateway.
func portion(ep *Endpoint, ports []Port, onlyIPv4, shared bool) []Port {
	if onlyIPv4 || shared {
		ports = ofFamily(ports, onlyIPv4)
	}
	return served(ep, ports)
}

// served leaves out where nobody would answer, as Docker does: whatever comes by IPv4 for
// an endpoint without. Another endpoint of the sandbox, of Docker's own network even, may
// be the gateway that answers there. IPv6 is led to an endpoint that has IPv4 alone by the
// userland proxy, which does not speak SCTP.
func served(ep *Endpoint, ports []Port) []Port {
	var all []Port
	for _, p := range ports {
		switch {
		case p.Host.IsValid():
		case !ep.IPv4.IsValid():
			p.Host = Every(false)
		case !ep.IPv6.IsValid() && p.Proto == SCTP:
			p.Host = Every(true)
		}
		if !p.Unserved(ep) {
			all = append(all, p)
		}
	}
	return all
}

// Unserved reports whether the endpoint has no address that the port could lead to.
func (p Port) Unserved(ep *Endpoint) bool {
	switch {
	case !ep.IPv4.IsValid():
		return p.Host.Is4() || !ep.IPv6.IsValid()
	case !ep.IPv6.IsValid():
		return p.Host.Is6() && p.Proto == SCTP
	}
	return false
}

// Every is the address that stands for all of one family.
func Every(ipv4 bool) netip.Addr {
	if ipv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// ofFamily is what of ports concerns one family.
func ofFamily(ports []Port, ipv4 bool) []Port {
	var all []Port
	for _, p := range ports {
		if !p.Host.IsValid() {
			p.Host = Every(ipv4)
		}
		if p.Host.Is4() == ipv4 {
			all = append(all, p)
		}
	}
	return all
}

// Unpublish takes back every port of an endpoint.
func (s *State) Unpublish(network, id ID) {
	n, ep, err := s.Endpoint(network, id)
	if err != nil || len(ep.Ports) == 0 && !ep.OnlyIPv4 {
		return
	}
	for _, p := range ep.Ports {
		s.ports = s.ports.Without(keyOf(p))
	}
	changed := *ep
	changed.Ports, changed.OnlyIPv4 = nil, false
	s.put(n, &changed)
}
