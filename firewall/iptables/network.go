package iptables

import (
	"fmt"
	"net/netip"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// maxName is how long an interface's name may be (IFNAMSIZ in linux/if.h, less the
// final NUL).
const maxName = 15

// network are a network's rules, without its endpoints'.
func (r renderer) network(n *plan.Network) {
	z := n.Zone
	r.same(z)
	if z.Internal {
		r.say(rankLeave, mangle(chainForward), fmt.Sprintf("-i %s -j DROP", z.Bridge), "nothing leaves an internal network")
		r.say(rankEnter, mangle(chainForward), fmt.Sprintf("-o %s -j DROP", z.Bridge), "nothing enters an internal network")
	} else {
		r.say(rankOut, mangle(chainForward), fmt.Sprintf("-i %s -j %s", z.Bridge, chainOut), "from containers")
		r.say(rankIn, mangle(chainForward), fmt.Sprintf("-o %s -g %s", z.Bridge, chainIn), "to containers")
	}
	// A container that sends to a peer by way of the gateway has been told to.
	r.say(0, mangle(chainAdvice), fmt.Sprintf("-o %s -j DROP", z.Bridge), "no redirects to containers")
	r.mode(z)
	for _, s := range z.Subnets {
		if r.has(s.Prefix.Addr()) {
			r.say(rankBridge, nat(chainPost), fmt.Sprintf("-o %s -g %s", z.Bridge, chainEnter), "to containers")
			r.subnet(z, s)
		}
	}
}

// same judges what goes back into the bridge that it came from, be it bridged or, by
// way of the gateway, routed.
func (r renderer) same(z *plan.Zone) {
	same := fmt.Sprintf("-i %s -o %s", z.Bridge, z.Bridge)
	bridged := same + " -m physdev --physdev-is-bridged"
	switch {
	case !z.Apart:
		r.say(rankSame, mangle(chainForward), same+" -j RETURN", "within one network")
	case !r.bridged:
	case z.Shared:
		r.say(rankSame, mangle(chainForward), bridged+" -g "+chainApart, "from port to port")
	case z.Internal:
		r.say(rankSame, mangle(chainForward), bridged+" -j DROP", whyApart)
	}
	if z.Apart && !z.Internal {
		r.say(rankBack, mangle(chainIn), same+" -j DROP", whyApart)
	}
}

// mode opens containers' own addresses, whoever asks.
func (r renderer) mode(z *plan.Zone) {
	mode, icmp := z.Mode4, "icmp"
	if r.family == 6 {
		mode, icmp = z.Mode6, "ipv6-icmp"
	}
	switch mode {
	case spec.Unprotected:
		r.say(rankOpen, mangle(chainIn), fmt.Sprintf("-o %s -j RETURN", z.Bridge), "gateway mode nat-unprotected")
	case spec.Routed:
		// Nothing is translated, and the other half of a connection may go by another router.
		r.say(rankOpen, mangle(chainOut), fmt.Sprintf("-i %s -j RETURN", z.Bridge), "gateway mode routed")
		r.say(rankOpen, mangle(chainIn), fmt.Sprintf("-o %s -p %s -j RETURN", z.Bridge, icmp), "gateway mode routed: ping, and what routers report")
		r.say(rankGate, mangle(chainIn), fmt.Sprintf("-o %s -g %s", z.Bridge, chainOpen), "gateway mode routed")
	}
	for _, link := range z.Trusted {
		if len(link) <= maxName { // else there is no such interface
			r.say(rankGate, mangle(chainIn), fmt.Sprintf("-i %s -o %s -g %s", link, z.Bridge, chainOpen), "interfaces that are trusted")
		}
	}
}

// subnet hides one behind the host on the way out, and behind its own gateway if
// client and server are both in it.
func (r renderer) subnet(z *plan.Zone, s plan.Subnet) {
	r.say(rankSource, nat(chainEnter), fmt.Sprintf("-s %s -o %s -j MASQUERADE", s.Prefix, z.Bridge), "client and server on one network")
	switch {
	case s.Masquerade && s.Source.IsValid():
		r.say(rankSource, nat(chainPost), fmt.Sprintf("-s %s -j SNAT --to-source %s", s.Prefix, s.Source), "containers to the outside, by an address of choice")
	case s.Masquerade:
		r.say(rankSource, nat(chainPost), fmt.Sprintf("-s %s -j MASQUERADE", s.Prefix), "containers to the outside")
	}
}

// endpoint are an endpoint's published and open ports and, if it is to be kept apart
// from others but not from all that is on its bridge, its port of the bridge.
func (r renderer) endpoint(n *plan.Network, e *plan.Endpoint) {
	for _, m := range e.Mappings {
		if r.has(m.To) {
			r.mapping(m)
		}
	}
	for _, o := range e.Open {
		if r.has(o.Addr) {
			r.say(rankOpen, mangle(chainOpen), "-d "+single(o.Addr)+" "+ports(o.Proto, o.First, o.Last)+" -j RETURN", "ports that are open")
		}
	}
	if n.Zone.Shared && r.guards {
		for _, a := range e.Addresses {
			if r.has(a) {
				r.say(rankResident, mangle(chainGuard), fmt.Sprintf("-i %s -s %s -j RETURN", n.Zone.Bridge, single(a)), "from a container")
				r.say(rankResident, mangle(chainGuard), fmt.Sprintf("-o %s -d %s -j RETURN", n.Zone.Bridge, single(a)), "to a container")
			}
		}
	}
	if n.Zone.Apart && n.Zone.Shared && r.bridged {
		r.say(rankPort, mangle(chainApart), "-m physdev --physdev-in "+e.Veth.Name+" -g "+chainApartTo, "from a container that is kept apart")
		r.say(rankPort, mangle(chainApartTo), "-m physdev --physdev-is-bridged --physdev-out "+e.Veth.Name+" -j DROP", whyApart)
	}
}

// mapping leads a port of the host, or a contiguous range, to a container.
func (r renderer) mapping(m plan.Mapping) {
	if m.First == m.Last || m.First == m.ToPort {
		r.publish(m, "")
		return
	}
	if !r.lacks.has(featureShift) {
		r.publish(m, featureShift)
		return
	}
	for i := range m.Last - m.First + 1 {
		one := m
		one.First, one.Last, one.ToPort = m.First+i, m.First+i, m.ToPort+i
		r.publish(one, "")
	}
}

// publish is mapping in one rule, for which the kernel needs a feature.
func (r renderer) publish(m plan.Mapping, needs feature) {
	rank, text := rankAny, ports(m.Proto, m.First, m.Last)
	if !m.Host.IsUnspecified() {
		rank, text = rankAddr, "-d "+single(m.Host)+" "+text
	}
	to := netip.AddrPortFrom(m.To, m.ToPort).String()
	switch m.First {
	case m.Last:
	case m.ToPort:
		to = m.To.String()
	default: // the last number is the port that the first of the range leads from
		to = fmt.Sprintf("%s-%d/%d", to, m.ToPort+m.Last-m.First, m.First)
	}
	r.needing(needs).say(rank, nat(chainPublish), text+" -j DNAT --to-destination "+to, "published ports")
}

func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// ports is e.g. -p tcp -m tcp --dport 80:89. For SCTP it asks a match that other firewalls
// need too, since some kernels come without the one of SCTP alone.
func ports(proto spec.Proto, first, last uint16) string {
	match := "-m " + proto.String() + " --dport"
	if proto == spec.SCTP {
		match = "-m multiport --dports"
	}
	text := fmt.Sprintf("-p %s %s %d", proto, match, first)
	if last != first {
		text += fmt.Sprintf(":%d", last)
	}
	return text
}
