package reach

import (
	"net/netip"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Engine is who has made container d and its bridge, as far as that bears on the table.
type Engine struct {
	// Name ends that of a table, e.g. ", beside 20.10"; "" where there are no rules.
	Name string
	// Rules says that it has written rules, and hence published a port of d.
	Rules bool
	// Shields says that these are of one from 28 on, which drops ahead of all
	// translation what comes to its containers' own addresses.
	Shields bool
}

// Engines are all there are: one without rules of its own (--iptables=false), the oldest
// that is supported, and the newest. With iptables and with nftables it does the same.
func Engines() []Engine {
	return []Engine{
		{},
		{Name: ", beside 20.10", Rules: true},
		{Name: ", beside the newest", Rules: true, Shields: true},
	}
}

// Bridge is one of an engine's.
type Bridge struct {
	Name      string
	Addresses []netip.Prefix
}

// Bridges are an engine's: the one that d is on, another one, and one of an internal network.
func Bridges() []Bridge {
	b := func(name, ipv4, ipv6 string) Bridge {
		return Bridge{name, []netip.Prefix{netip.MustParsePrefix(ipv4), netip.MustParsePrefix(ipv6)}}
	}
	return []Bridge{
		b("br-internal", "172.19.0.1/16", "fd19::1/64"),
		b("br-second", "172.18.0.1/16", "fd18::1/64"),
		b("docker0", "172.17.0.1/16", "fd17::1/64"),
	}
}

// Host is one that did not forward before we came, with an engine's bridges. What the
// engine writes no rules for nobody knows to be an engine's.
func (e Engine) Host() *plan.Host {
	h := machine(Host)
	host := &plan.Host{
		IPv6: true, ForceForwarding: true,
		Uplinks:   []plan.HostLink{{Name: "eth0"}},
		Addresses: []netip.Addr{h.IPv4, h.IPv6},
	}
	for _, b := range Bridges() {
		link := plan.HostLink{Name: b.Name, Shielded: e.Shields}
		for _, a := range b.Addresses {
			link.Subnets = append(link.Subnets, a.Masked())
			host.Addresses = append(host.Addresses, a.Addr())
		}
		if e.Rules {
			host.Engines = append(host.Engines, link)
		}
	}
	return host
}
