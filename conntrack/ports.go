package conntrack

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// review judges entries by what they were asked for: a port of the host.
type review struct {
	plan *plan.Plan
	want ledger // what leads somewhere now; all that the plan has, or only what is new
	gone ledger // what did until now, to an address that its endpoint still has
}

// stale reports whether the next packet should be led elsewhere than where the entry
// leads it, and would be if there was no entry.
//
// A TCP connection that was answered is never stale. To cut it would hurt who uses it and
// help nobody: whoever connects anew begins a new entry. So one that was begun before a
// port was revoked goes on while the container stays, as one of a single port that
// Docker's bridge takes back does. It ends when the container leaves.
func (r review) stale(e entry) bool {
	if r.orphaned(e) {
		return true
	}
	m, covered := r.want.find(e.proto, e.asked)
	switch {
	case e.proto == spec.TCP && e.answered:
		return false
	case !covered && r.plan.Host.NoFirewall: // the proxy serves what was translated before
		return e.server != e.asked && r.local(e.asked.Addr()) && r.ours(e.server.Addr())
	case !covered:
		return r.gone.leads(e)
	case e.server != e.asked:
		// An engine may have led it to its own container, or an administrator elsewhere.
		return e.server != serverOf(m, e.asked) && r.ours(e.server.Addr())
	}
	return r.local(e.asked.Addr()) && translatable(e.client.Addr())
}

// orphaned reports whether the host itself began, by a port that is published now: who
// did so cannot have it any more, and whoever was spoken to may go on to answer.
func (r review) orphaned(e entry) bool {
	if e.proto == spec.TCP || e.server != e.asked {
		return false
	}
	_, covered := r.want.find(e.proto, e.client)
	return covered && r.local(e.client.Addr()) && translatable(e.asked.Addr())
}

// ours reports whether an address is that of an endpoint.
func (r review) ours(addr netip.Addr) bool {
	for _, n := range r.plan.Networks.All() {
		if !slices.ContainsFunc(n.Zone.Subnets, func(s plan.Subnet) bool { return s.Prefix.Contains(addr) }) {
			continue
		}
		for _, e := range n.Endpoints.All() {
			if slices.Contains(e.Addresses, addr) {
				return true
			}
		}
	}
	return false
}

// local reports whether what is sent to an address is meant for this host. What merely
// passes through it is translated by nobody. ::1 is left to the proxy.
func (r review) local(addr netip.Addr) bool {
	if addr.Is4() && addr.IsLoopback() {
		return true
	}
	if _, found := slices.BinarySearchFunc(r.plan.Host.Addresses, addr, netip.Addr.Compare); found {
		return true
	}
	for _, n := range r.plan.Networks.All() {
		if slices.ContainsFunc(n.Bridge.Addresses, func(a netip.Prefix) bool { return a.Addr() == addr }) {
			return true
		}
	}
	return false
}

// translatable reports whether what a client sends can be led to a container. To
// link-local addresses of IPv6 nothing is routed, so they are left to the proxy.
func translatable(client netip.Addr) bool { return client.Is4() || !client.IsLinkLocalUnicast() }

// ledger finds the mapping that a packet meets. Those of one place do not overlap, and
// are in the order of their ports.
type ledger map[place][]plan.Mapping

type place struct {
	proto spec.Proto
	host  netip.Addr
}

func newLedger(mappings []plan.Mapping) ledger {
	all := ledger{}
	for _, m := range mappings {
		at := place{m.Proto, m.Host}
		all[at] = append(all[at], m)
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b plan.Mapping) int { return cmp.Compare(a.First, b.First) })
	}
	return all
}

func (l ledger) find(proto spec.Proto, asked netip.AddrPort) (plan.Mapping, bool) {
	for _, host := range []netip.Addr{asked.Addr(), spec.Every(asked.Addr().Is4())} {
		list := l[place{proto, host}]
		i, found := slices.BinarySearchFunc(list, asked.Port(), func(m plan.Mapping, port uint16) int {
			if m.First <= port && port <= m.Last {
				return 0
			}
			return cmp.Compare(m.First, port)
		})
		if found {
			return list[i], true
		}
	}
	return plan.Mapping{}, false
}

// leads reports whether a mapping of the ledger made the entry lead where it does.
func (l ledger) leads(e entry) bool {
	m, found := l.find(e.proto, e.asked)
	return found && e.server == serverOf(m, e.asked)
}

// serverOf is where a mapping leads what is asked of a port of it.
func serverOf(m plan.Mapping, asked netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(m.To, m.ToPort+asked.Port()-m.First)
}

// changed are the mappings that came, and those that went. What went with its address is
// left out: all entries of that address go.
func changed(before, after *plan.Plan) (came, went []plan.Mapping) {
	for n := range tree.Diff(before.Networks, after.Networks) {
		for e := range plan.DiffEndpoints(n.Old, n.New) {
			var had, has []plan.Mapping
			if e.Old != nil {
				had = e.Old.Mappings
			}
			if e.New != nil {
				has = e.New.Mappings
			}
			came = append(came, without(has, had)...)
			for _, m := range without(had, has) {
				if e.New != nil && e.New.Veth.Joined && slices.Contains(e.New.Addresses, m.To) {
					went = append(went, m)
				}
			}
		}
	}
	return came, went
}

// without are the mappings that others do not have.
func without(mappings, others []plan.Mapping) []plan.Mapping {
	known := map[plan.Mapping]bool{}
	for _, m := range others {
		known[m] = true
	}
	return slices.DeleteFunc(slices.Clone(mappings), func(m plan.Mapping) bool { return known[m] })
}

// published are all mappings of a plan.
func published(p *plan.Plan) []plan.Mapping {
	came, _ := changed(&plan.Plan{}, p)
	return came
}

// few is the number of walks through the table, each for one port, up to which they are
// cheaper than to read all that the kernel has of a protocol.
const few = 3

// kind is what one walk can be confined to.
type kind struct {
	family uint8
	proto  spec.Proto
}

// clean deletes what a review finds stale. It looks at the ports that the review is
// about, and at no others.
func (t *Table) clean(r review) error {
	var failed []error
	for k, ports := range r.kinds() {
		for _, f := range t.filters(k, ports) {
			failed = append(failed, t.purge(k.family, f, r.stale))
		}
	}
	return errors.Join(failed...)
}

// kinds are what a review is about, with the ports; of a range, no more than are too many.
func (r review) kinds() map[kind]map[uint16]bool {
	kinds := map[kind]map[uint16]bool{}
	for _, l := range []ledger{r.want, r.gone} {
		for at, list := range l {
			k := kind{family(at.host), at.proto}
			if kinds[k] == nil {
				kinds[k] = map[uint16]bool{}
			}
			for _, m := range list {
				for i := range min(few+1, int(m.Last-m.First)+1) {
					kinds[k][m.First+uint16(i)] = true
				}
			}
		}
	}
	return kinds
}

// filters are those of the walks that together see all entries of some ports.
func (t *Table) filters(k kind, ports map[uint16]bool) [][]nl.NetlinkRequestData {
	if !t.filtersPorts(k) {
		return [][]nl.NetlinkRequestData{nil}
	}
	var all [][]nl.NetlinkRequestData
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		all = append(all, byTarget(k.proto, port))
		if k.proto != spec.TCP {
			all = append(all, byClient(k.proto, port))
		}
	}
	if len(all) > few {
		return [][]nl.NetlinkRequestData{byProto(k.proto)}
	}
	return all
}
