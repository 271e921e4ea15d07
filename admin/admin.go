// Package admin is the operator's view of a running daemon: an HTTP API on a unix
// socket, its types, and the client that the commands use.
//
// It asks the engine and the allocator and decides nothing itself. Docker never
// talks to it.
package admin

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// DefaultSocket is where the daemon listens and the commands ask.
const DefaultSocket = "/run/drawbridge/admin.sock"

// PluginSockets matches where the host finds the socket of a managed plugin: an engine
// shows it the plugin's /run/docker/plugins. The name has few characters to spare,
// since with the plugin's ID the path is almost as long as that of a socket may be.
const PluginSockets = "/run/docker/plugins/*/drawbridge-admin.sock"

// Network is a network as the operator sees it.
type Network struct {
	ID        string   `json:"id"`       // Docker's, e.g. 64 hexadecimal digits
	Bridge    string   `json:"bridge"`   // e.g. dbr3f2a9c0d11ee
	Subnets   []string `json:"subnets"`  // e.g. 172.30.0.0/24
	Gateways  []string `json:"gateways"` // e.g. 172.30.0.1
	Internal  bool     `json:"internal"`
	MTU       int      `json:"mtu"` // in bytes
	Endpoints int      `json:"endpoints"`
}

// Endpoint is a container's place on a network as the operator sees it.
type Endpoint struct {
	ID        string   `json:"id"`
	Network   string   `json:"network"` // its ID
	Addresses []string `json:"addresses"`
	MAC       string   `json:"mac"`
	Ports     []string `json:"ports"`   // as docker ps writes them, and " (proxy)" behind what the kernel does not translate
	Sandbox   string   `json:"sandbox"` // e.g. /run/docker/netns/1eee51bd70de
	Link      string   `json:"link"`    // the host's end of its veth pair
	Idle      bool     `json:"idle"`    // nobody is in it: its container is about to start, or it goes by itself within minutes
}

// Status is how the daemon and the host are.
type Status struct {
	Version   string `json:"version"`
	Driver    string `json:"driver"` // what Docker calls it, e.g. drawbridge; a managed plugin has more around that
	Networks  int    `json:"networks"`
	Endpoints int    `json:"endpoints"`
	Pools     int    `json:"pools"`
	Leases    int    `json:"leases"` // addresses that Docker has for containers
	// Firewall is the one that was chosen at start.
	Firewall Firewall `json:"firewall"`
	// LoosePools are those of which no network of ours was made: one of another
	// driver's was, or an engine died on the way to it.
	LoosePools []string     `json:"loose_pools"`
	Warnings   []string     `json:"warnings"` // what keeps packets from containers, and what cures it
	Notices    []string     `json:"notices"`  // what else the person should know
	Drift      []plan.Drift `json:"drift"`    // where the host differs from the plan
}

// Firewall is which one there is and why.
type Firewall struct {
	Backend string `json:"backend"` // nftables, iptables-nft or iptables-legacy
	Reason  string `json:"reason"`  // e.g. as told
}

func networks(s spec.State, p *plan.Plan) []Network {
	all := []Network{}
	for id, n := range s.Networks.All() {
		row := Network{ID: string(id), Bridge: plan.BridgeName(n), Internal: n.Internal, Endpoints: n.Endpoints.Len(), Subnets: []string{}, Gateways: []string{}}
		if planned, ok := p.Networks.Get(id); ok {
			row.MTU = planned.Bridge.MTU
		}
		for _, pool := range n.Pools {
			row.Subnets = append(row.Subnets, pool.Prefix.String())
			if pool.Gateway.IsValid() {
				row.Gateways = append(row.Gateways, pool.Gateway.String())
			}
		}
		all = append(all, row)
	}
	return all
}

func endpoints(s spec.State, p *plan.Plan, idle func(*spec.Endpoint) bool) []Endpoint {
	all := []Endpoint{}
	for _, n := range s.Networks.All() {
		planned, _ := p.Networks.Get(n.ID)
		for id, e := range n.Endpoints.All() {
			row := Endpoint{
				ID: string(id), Network: string(n.ID), MAC: e.MAC.String(), Sandbox: e.Sandbox, Link: plan.VethName(e), Idle: idle(e),
				Addresses: []string{}, Ports: []string{},
			}
			for _, a := range e.Addresses() {
				row.Addresses = append(row.Addresses, a.String())
			}
			if planned != nil {
				if pe, ok := planned.Endpoints.Get(id); ok {
					row.Ports = append(row.Ports, published(pe)...)
				}
			}
			row.Ports = append(row.Ports, opened(e)...)
			all = append(all, row)
		}
	}
	return all
}

// published are ports of the host, each family by itself. Those that lead to the container
// through the userland proxy alone are marked.
func published(e *plan.Endpoint) []string {
	var all []string
	for _, m := range e.Mappings {
		all = append(all, m.Port().String())
	}
	for _, h := range e.Ports {
		for i, p := range []plan.Proxy{h.Proxy4, h.Proxy6} {
			if !p.To.IsValid() || !p.All && h.Host != netip.IPv6Loopback() {
				continue
			}
			port := h.Port
			if !port.Host.IsValid() {
				port.Host = spec.Every(i == 0)
			}
			all = append(all, port.String()+" (proxy)")
		}
	}
	return all
}

// opened are ports that no port of the host leads to, as Docker shows them: 80/tcp.
func opened(e *spec.Endpoint) []string {
	var all []string
	for _, p := range e.Open {
		if text := p.Container(); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

func loosePools(all []ipam.PoolStatus) []string {
	loose := []string{}
	for _, p := range all {
		if p.Network == "" {
			loose = append(loose, p.Prefix.String())
		}
	}
	return loose
}

// notices turns the host's facts into sentences for a person.
func notices(p *plan.Plan, more []string) []string {
	all := append([]string{}, more...)
	if p.Host.NoFirewall {
		return append(all, barred(p)...)
	}
	for _, c := range p.Host.Drops {
		all = append(all, fmt.Sprintf("the FORWARD chain of iptables-%s drops IPv%d that it does not know: our bridges are let through it by name", c.Kind, c.Family))
	}
	if p.Host.Blind && keepsApart(p) {
		all = append(all, "the firewall does not see what passes within a bridge (net.bridge.bridge-nf-call-iptables and -ip6tables are not both 1): "+
			"containers that are kept apart are so by their bridge's ports, which count nothing that they drop")
	}
	for _, e := range p.Host.Engines {
		all = append(all, fmt.Sprintf("bridge %s is an engine's: nothing untranslated passes between it and ours", e.Name))
	}
	everywhere := p.Guard6 && !p.Host.ForceForwarding
	if everywhere {
		all = append(all, "the host did not forward IPv6: it is on for every interface, since this kernel (before Linux 6.17) has no less, and nothing passes but from and to containers. "+
			"An engine that starts now finds it on, and leaves the policy of ip6tables' FORWARD as it is")
	}
	for _, f := range []struct {
		name    string
		guard   bool
		routers []string
	}{{"IPv4", p.Guard4, p.Host.Routers4}, {"IPv6", p.Guard6 && !everywhere, p.Host.Routers6}} {
		if f.guard {
			all = append(all, fmt.Sprintf("the host does not forward %s: we have switched it on for our bridges and %s, and nothing passes but from and to containers", f.name, switchedOn(p, f.routers)))
		}
	}
	return all
}

// barred tells of chains that no accept of ours is put into, for want of a firewall.
func barred(p *plan.Plan) []string {
	var all []string
	for _, c := range p.Host.Drops {
		text := fmt.Sprintf("the FORWARD chain of iptables-%s drops IPv%d that it does not know: what our bridges are to pass it has to be told", c.Kind, c.Family)
		if !p.Host.Unseen(c.Family) {
			text += ", between containers of one network too, as long as bridged frames are shown to it (net.bridge.bridge-nf-call-iptables and -ip6tables)"
		}
		all = append(all, text)
	}
	return all
}

func keepsApart(p *plan.Plan) bool {
	for _, n := range p.Networks.All() {
		if n.Zone.Apart {
			return true
		}
	}
	return false
}

// switchedOn names the uplinks but those that forwarded before.
func switchedOn(p *plan.Plan, routers []string) string {
	var names []string
	for _, u := range p.Host.Uplinks {
		if !slices.Contains(routers, u.Name) {
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return "no other interface"
	}
	return strings.Join(names, ", ")
}
