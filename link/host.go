package link

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Look finds the host's facts, all but Drops, Blind and NoFirewall. Engines are the bridges that an
// engine's own rules name. What we ourselves have set is reported as it was found,
// so that a plan made from the facts does not depend on the plan before.
//
// It waits for whoever sets something on such links, since between a setting and the note of
// what it was lies a moment in which ours looks like found.
func (k *Kernel) Look(_ context.Context, engines []plan.HostLink) (*plan.Host, error) {
	k.notes.Lock()
	defer k.notes.Unlock()
	found, err := k.found()
	if err != nil {
		return nil, err
	}
	devices, err := k.devices()
	if err != nil {
		return nil, err
	}
	addrs, err := k.addresses()
	if err != nil {
		return nil, err
	}
	host := &plan.Host{}
	k.lookAtBridged(host)
	if err := lookAtForwarding(host, found); err != nil {
		return nil, err
	}
	bridges, of := map[int]bool{}, map[int]bool{} // by index: all, and those of engines
	for _, d := range devices {
		leaveOut(d, addrs, found)
		i := slices.IndexFunc(engines, func(e plan.HostLink) bool { return e.Name == d.name })
		named := i >= 0
		bridges[d.index] = d.kind == "bridge"
		of[d.index] = named || d.kind == "bridge" && plan.EngineBridge(d.name)
		if named && !k.recognises(d) {
			host.Engines = append(host.Engines, plan.HostLink{Name: d.name, Shielded: engines[i].Shielded, Subnets: subnets(addrs[d.index])})
		}
	}
	for _, d := range devices {
		if k.recognises(d) {
			continue
		}
		host.Addresses = append(host.Addresses, own(addrs[d.index])...)
		uplink := d.up && !of[d.index] && !of[d.master] && len(subnets(addrs[d.index])) > 0
		if err := lookAtLink(host, d, found, uplink, bridges[d.master]); err != nil {
			return nil, err
		}
	}
	slices.Sort(host.Routers4)
	slices.Sort(host.Routers6)
	for _, list := range [][]plan.HostLink{host.Uplinks, host.Others, host.Engines} {
		slices.SortFunc(list, func(a, b plan.HostLink) int { return cmp.Compare(a.Name, b.Name) })
	}
	slices.SortFunc(host.Addresses, netip.Addr.Compare)
	host.Addresses = slices.Compact(host.Addresses)
	return host, nil
}

// leaveOut makes an adopted bridge look as it was found.
func leaveOut(d *device, addrs map[int][]netip.Prefix, found map[string]int) {
	was := found[adoptionKey+d.name]
	if !d.is(was) {
		return
	}
	d.up = d.up && was > 0
	added := addedAddresses(found, d.name)
	addrs[d.index] = slices.DeleteFunc(addrs[d.index], func(a netip.Prefix) bool { return slices.Contains(added, a) })
}

// own are the addresses by which others can know the host. Those that are valid on one
// link only come with every veth of an engine's, and nothing is forwarded to them.
func own(addrs []netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for _, a := range addrs {
		if addr := a.Addr(); !addr.IsLoopback() && (addr.Is4() || !addr.IsLinkLocalUnicast()) {
			all = append(all, addr)
		}
	}
	return all
}

// subnets are those of addresses that reach beyond the link, sorted.
func subnets(addrs []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Masked())
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
