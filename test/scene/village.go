package scene

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// Village is a Town with the machines of the reachability table, all on the bridges that
// they have in every plan. What else a plan says of the host changes with Become.
type Village struct {
	*Town
	machines map[string]*lab.Host
	plan     *plan.Plan
	engine   reach.Engine
}

// NewVillage makes a Village that has become what a plan says, but for its firewall.
func NewVillage(t testing.TB, e reach.Engine, p *plan.Plan) *Village {
	t.Helper()
	v := &Village{Town: &Town{Lab: lab.New(t), T: t}, plan: &plan.Plan{}, engine: e}
	links := []string{}
	for _, b := range reach.Bridges() {
		v.Bridge(b.Name, b.Addresses...)
		links = append(links, b.Name)
	}
	for _, n := range p.Networks.All() {
		v.Bridge(n.Bridge.Name)
		links = append(links, n.Bridge.Name)
	}
	// As on a host whose ip_forward is 1: no sysctl helps the firewall.
	for _, link := range links {
		v.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
		v.Host.Set("net/ipv6/conf/"+link+"/force_forwarding", "1")
	}
	v.Become(p)
	v.machines = map[string]*lab.Host{reach.Host: v.Host, reach.Outside: v.Outside, reach.Neighbour: v.Neighbour}
	for _, m := range reach.Machines() {
		if m.Bridge == "" {
			Serve(t, v.machines[m.Name], m.Name, "tcp [::]:22")
			continue
		}
		v.machines[m.Name] = v.machine(m)
		v.listen(m)
	}
	v.acquaint(reach.A, reach.B)
	v.acquaint(reach.B, reach.A)
	for _, to := range []string{"172.30.0.0/16", "172.17.0.0/16", "fd00:30::/32", "fd17::/64"} {
		v.Neighbour.Route(netip.MustParsePrefix(to), v.Host)
	}
	return v
}

// Become gives bridges and uplinks the addresses and settings of another plan. Nothing
// is remembered of connections: what was open then must not be taken for open now.
func (v *Village) Become(p *plan.Plan) {
	v.T.Helper()
	for _, u := range p.Uplinks {
		v.settings(u.Name, u.Settings)
	}
	for id, n := range p.Networks.All() {
		link := n.Bridge.Name
		if before, ok := v.plan.Networks.Get(id); !ok || !slices.Equal(before.Bridge.Addresses, n.Bridge.Addresses) {
			v.Host.Run("ip", "addr", "flush", "dev", link, "scope", "global")
			v.addresses(link, n.Bridge.Addresses)
		}
		v.Host.Set("net/ipv4/conf/"+link+"/route_localnet", "0")
		v.settings(link, n.Bridge.Settings)
	}
	v.plan = p
	for _, m := range reach.Machines() {
		if v.machines[m.Name] != nil && m.Bridge != "" {
			v.settled(m)
		}
	}
	v.Host.Run("conntrack", "-F")
}

// Isolate sets the ports of bridges as another plan says that differs in nothing else.
func (v *Village) Isolate(p *plan.Plan) {
	v.T.Helper()
	v.plan = p
	for _, n := range p.Networks.All() {
		for _, e := range n.Endpoints.All() {
			isolated := "off"
			if e.Veth.Isolated {
				isolated = "on"
			}
			v.Host.Run("bridge", "link", "set", "dev", e.Veth.Name, "isolated", isolated)
		}
	}
}

// machine is a container at the port of the bridge that the plan gives it.
func (v *Village) machine(m reach.Machine) *lab.Host {
	bits4, bits6 := "/24", "/64"
	if m.Name == reach.D {
		bits4 = "/16"
	}
	addresses := []string{m.IPv4.String() + bits4, m.IPv6.String() + bits6}
	for _, n := range v.plan.Networks.All() {
		for _, e := range n.Endpoints.All() {
			if slices.Contains(e.Addresses, m.IPv4) {
				return v.Behind(e.Veth.Name, m.Name, m.Bridge, addresses...)
			}
		}
	}
	return v.Container(m.Name, m.Bridge, addresses...)
}

// acquaint tells a container where its neighbour is. Where they are kept apart it may not
// find out, and what it asks would never be sent.
func (v *Village) acquaint(name, neighbour string) {
	link := strings.Fields(v.machines[neighbour].Run("ip", "-o", "link", "show", "dev", "eth0"))
	mac := link[slices.Index(link, "link/ether")+1]
	for _, m := range reach.Machines() {
		if m.Name == neighbour {
			for _, addr := range []netip.Addr{m.IPv4, m.IPv6} {
				v.machines[name].Run("ip", "neigh", "replace", addr.String(), "lladdr", mac, "dev", "eth0", "nud", "permanent")
			}
		}
	}
}

// settled waits until a container and its gateways know each other, which on a busy
// machine may take longer than a question is given.
func (v *Village) settled(m reach.Machine) {
	var gateways []netip.Prefix
	for _, b := range reach.Bridges() {
		if b.Name == m.Bridge {
			gateways = b.Addresses
		}
	}
	for _, n := range v.plan.Networks.All() {
		if n.Bridge.Name == m.Bridge {
			gateways = n.Bridge.Addresses
		}
	}
	for _, gateway := range gateways {
		v.machines[m.Name].MustPing(gateway.Addr().String())
	}
}
