package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/spec"
)

// String prints the plan as lines in the manner of ip and nft, in fixed order.
func (p *Plan) String() string {
	var b strings.Builder
	for _, u := range p.Uplinks {
		if len(u.Settings) > 0 {
			fmt.Fprintf(&b, "uplink %s%s\n", u.Name, settings(u.Settings))
		}
	}
	for _, f := range []struct {
		family  int
		guards  bool
		guarded []string
	}{{4, p.Guard4, p.Guarded4}, {6, p.Guard6, p.Guarded6}} {
		if f.guards {
			fmt.Fprintf(&b, "guard ipv%d what enters by %s\n", f.family, orNothing(strings.Join(f.guarded, " ")))
		}
	}
	p.Host.print(&b)
	for _, n := range p.Networks.All() {
		fmt.Fprintf(&b, "network %s\n", n.ID)
		n.print(&b, p.Host)
	}
	return b.String()
}

// print says of the host what the firewall must know.
func (h *Host) print(b *strings.Builder) {
	if h.NoFirewall {
		b.WriteString("no firewall\n")
		return
	}
	if h.Blind {
		b.WriteString("ports of bridges keep apart what the firewall does not see\n")
	}
	for _, e := range h.Engines {
		fmt.Fprintf(b, "apart from engine bridge %s subnets %v shielded %t\n", e.Name, e.Subnets, e.Shielded)
	}
}

func (n *Network) print(b *strings.Builder, host *Host) {
	br := n.Bridge
	named := ""
	if br.Named {
		named = " if we make it:"
	}
	fmt.Fprintf(b, "  link %s type bridge%s%s address %s mtu %d%s\n", br.Name, settings(br.Settings), named, br.MAC, br.MTU, settings(br.OwnSettings))
	for _, a := range br.Addresses {
		fmt.Fprintf(b, "  address %s dev %s\n", a, br.Name)
	}
	if !host.NoFirewall {
		n.printZone(b, host.Drops)
	}
	for _, e := range n.Endpoints.All() {
		fmt.Fprintf(b, "  endpoint %s\n", e.ID)
		e.print(b)
	}
}

func (n *Network) printZone(b *strings.Builder, drops []Chain) {
	z := n.Zone
	fmt.Fprintf(b, "  zone %s internal %t apart %t ipv4 %s ipv6 %s%s\n", z.Bridge, z.Internal, z.Apart, z.Mode4, z.Mode6, trusted(z.Trusted))
	for _, s := range z.Subnets {
		fmt.Fprintf(b, "    subnet %s\n", s)
	}
	for _, c := range drops {
		if n.Accepted(c) {
			fmt.Fprintf(b, "  accept %s in the FORWARD chain of iptables-%s, IPv%d\n", z.Bridge, c.Kind, c.Family)
		}
	}
}

func (e *Endpoint) print(b *strings.Builder) {
	v := e.Veth
	mtu := "of the bridge"
	if v.MTU != 0 {
		mtu = strconv.Itoa(v.MTU)
	}
	isolated := ""
	if v.Isolated {
		isolated = " isolated"
	}
	fmt.Fprintf(b, "    link %s type veth peer %s address %s master %s mtu %s joined %t%s%s\n",
		v.Name, v.Peer, v.MAC, v.Bridge, mtu, v.Joined, isolated, settings(v.Settings))
	for _, p := range e.Ports {
		fmt.Fprintf(b, "    hold %s%s%s\n", p.Port, p.Proxy4.text("IPv4"), p.Proxy6.text("IPv6"))
	}
	for _, m := range e.Mappings {
		fmt.Fprintf(b, "    dnat %s\n", m)
	}
	for _, o := range e.Open {
		fmt.Fprintf(b, "    open %s\n", o)
	}
}

func (p Proxy) text(family string) string {
	switch {
	case !p.To.IsValid():
		return ""
	case !p.All:
		family += " of the link and ::1"
	}
	return fmt.Sprintf(" proxy %s to %s", family, p.To)
}

func trusted(links []string) string {
	if len(links) == 0 {
		return ""
	}
	return " trusted " + strings.Join(links, " ")
}

// String is e.g. 172.30.0.0/24 masquerade.
func (s Subnet) String() string {
	switch {
	case !s.Masquerade:
		return s.Prefix.String()
	case s.Source.IsValid():
		return s.Prefix.String() + " snat to " + s.Source.String()
	}
	return s.Prefix.String() + " masquerade"
}

// String is e.g. tcp 172.30.0.5:80-89.
func (o Opening) String() string {
	s := fmt.Sprintf("%s %s", o.Proto, netip.AddrPortFrom(o.Addr, o.First))
	if o.Last != o.First {
		s += fmt.Sprintf("-%d", o.Last)
	}
	return s
}

// Port is the published port that the mapping makes work, in its one family.
func (m Mapping) Port() spec.Port {
	return spec.Port{Proto: m.Proto, Host: m.Host, HostPort: m.First, ContainerPort: m.ToPort, Count: m.Last - m.First + 1}
}

// String is e.g. tcp 0.0.0.0:8080 to 172.30.0.5:80.
func (m Mapping) String() string {
	from, _, _ := strings.Cut(m.Port().String(), "->")
	to := m.To.String()
	if m.To.Is6() {
		to = "[" + to + "]"
	}
	return fmt.Sprintf("%s %s to %s:%d", m.Proto, from, to, m.ToPort)
}

// Accepted reports whether the network's bridge must be let through a FORWARD
// chain that drops what it does not know. An internal network needs it only for what
// passes between its own containers, which a bridge shows to iptables while
// net.bridge.bridge-nf-call-iptables is 1. In one without subnets that may be anything.
func (n *Network) Accepted(c Chain) bool {
	of := func(s Subnet) bool { return s.Prefix.Addr().Is4() == (c.Family == 4) }
	return len(n.Zone.Subnets) == 0 || slices.ContainsFunc(n.Zone.Subnets, of)
}

func settings(list []Setting) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, " ipv%d.%s=%d", s.Family, s.Name, s.Value)
	}
	return b.String()
}
