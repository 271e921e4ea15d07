package nftables

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// element is one element of a set, its parts as the kernel keeps them. Two
// elements are the same if they are equal.
type element struct {
	set string
	key string
	// last is the end of the range that begins with key; only in sets of intervals.
	last  string
	value string // "" in a set, what the key is mapped to in a map
}

// text is the element as nft prints it, e.g. tcp . 8080 : 172.30.0.5 . 80.
func (r *ruleset) text(e element) string {
	if len(r.sets[e.set].value) > 0 {
		return r.keyText(e) + " : " + r.valueText(e)
	}
	return r.keyText(e)
}

func (r *ruleset) keyText(e element) string { return showAll(r.sets[e.set].key, e.key, e.last) }

// valueText is what a map leads to, e.g. 172.30.0.5 . 80, and in a set that the
// element is there.
func (r *ruleset) valueText(e element) string {
	if s := r.sets[e.set]; len(s.value) > 0 {
		return showAll(s.value, e.value, "")
	}
	return "present"
}

func compare(a, b element) int {
	return cmp.Or(strings.Compare(a.set, b.set), strings.Compare(a.key, b.key),
		strings.Compare(a.last, b.last), strings.Compare(a.value, b.value))
}

// change is what has to be done to the elements, and for whom.
type change struct {
	add, remove map[element]plan.Owner
}

func newChange() change {
	return change{map[element]plan.Owner{}, map[element]plan.Owner{}}
}

func (c change) empty() bool { return len(c.add) == 0 && len(c.remove) == 0 }

// replace puts one object's elements in the place of those that it had. What
// moves from one object to another is no change.
func (c change) replace(owner plan.Owner, old, now []element) {
	for _, e := range old {
		if _, added := c.add[e]; added {
			delete(c.add, e)
		} else {
			c.remove[e] = owner
		}
	}
	for _, e := range now {
		if _, removed := c.remove[e]; removed {
			delete(c.remove, e)
		} else {
			c.add[e] = owner
		}
	}
}

// owners are all for whom something is added, in fixed order.
func (c change) owners() []plan.Owner {
	unique := map[plan.Owner]bool{}
	for _, o := range c.add {
		unique[o] = true
	}
	return slices.SortedFunc(maps.Keys(unique), func(a, b plan.Owner) int {
		return cmp.Or(a.Network.Compare(b.Network), a.Endpoint.Compare(b.Endpoint))
	})
}

// without is the change without some sets, and for whom something is left out.
func (c change) without(sets ...string) (change, []plan.Owner) {
	rest, left := newChange(), newChange()
	for e, o := range c.add {
		if slices.Contains(sets, e.set) {
			left.add[e] = o
		} else {
			rest.add[e] = o
		}
	}
	for e, o := range c.remove {
		if !slices.Contains(sets, e.set) {
			rest.remove[e] = o
		}
	}
	return rest, left.owners()
}

// of is the part of the change that adds for one owner.
func (c change) of(owner plan.Owner) change {
	part := newChange()
	for e, o := range c.add {
		if o == owner {
			part.add[e] = o
		}
	}
	return part
}

// elements are all that a plan wants.
func elements(p *plan.Plan) map[element]plan.Owner { return difference(&plan.Plan{}, p).add }

// difference costs what differs between two plans, not what they hold.
func difference(have, want *plan.Plan) change {
	c := newChange()
	if have.Host != want.Host || !slices.Equal(have.Guarded4, want.Guarded4) ||
		!slices.Equal(have.Guarded6, want.Guarded6) || !slices.Equal(have.Bridges, want.Bridges) {
		c.replace(plan.Owner{}, hostElements(have), hostElements(want))
	}
	for n := range tree.Diff(have.Networks, want.Networks) {
		c.network(n)
	}
	return c
}

func (c change) network(n tree.Change[spec.ID, *plan.Network]) {
	owner := plan.Owner{Network: n.Key}
	if old, now := zone(n.Old), zone(n.New); old != now {
		c.replace(owner, zoneElements(old), zoneElements(now))
	}
	for e := range plan.DiffEndpoints(n.Old, n.New) {
		owner.Endpoint = e.Key
		c.replace(owner, endpointElements(zone(n.Old), e.Old), endpointElements(zone(n.New), e.New))
	}
}

func zone(n *plan.Network) *plan.Zone {
	if n == nil {
		return nil
	}
	return n.Zone
}

// hostElements name the interfaces that are not ours.
func hostElements(p *plan.Plan) []element {
	if p.Host == nil {
		return nil
	}
	var all []element
	var nets []netip.Prefix
	for _, e := range p.Host.Engines {
		all = append(all, element{set: setEngines, key: rawName(e.Name)})
		if e.Shielded {
			continue // the answer to a client that keeps its address would be dropped
		}
		for _, s := range e.Subnets {
			nets = append(nets, s.Masked())
		}
	}
	for _, s := range outermost(nets) {
		all = append(all, prefixElement(setEngineNets, s))
	}
	return append(all, guardElements(p)...)
}

// guardElements are there whichever way the plan switched forwarding on.
func guardElements(p *plan.Plan) []element {
	var all []element
	for _, name := range p.Guarded4 {
		all = append(all, element{set: setGuard + "4", key: rawName(name)})
	}
	for _, name := range p.Guarded6 {
		all = append(all, element{set: setGuard + "6", key: rawName(name)})
	}
	for _, name := range p.Bridges {
		all = append(all, sameBridge(name))
	}
	return all
}

func sameBridge(name string) element {
	return element{set: setSameBridge, key: rawName(name) + rawName(name)}
}

// outermost leaves out what another prefix contains: the kernel refuses intervals
// that overlap.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var kept []netip.Prefix
	for _, p := range prefixes {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// zoneElements say what a network is to the firewall.
func zoneElements(z *plan.Zone) []element {
	if z == nil {
		return nil
	}
	bridge := rawName(z.Bridge)
	all := []element{{set: setBridges, key: bridge}, sameBridge(z.Bridge)}
	if !z.Shared {
		all = append(all, element{set: setOwn, key: bridge})
	}
	if z.Apart {
		all = append(all, element{set: setApartBridges, key: bridge})
	}
	if z.Internal {
		all = append(all, element{set: setInternal, key: bridge})
	}
	for _, link := range z.Trusted {
		if len(link) < unix.IFNAMSIZ { // else there is no such interface
			all = append(all, element{set: setTrusted, key: rawName(link) + bridge})
		}
	}
	all = append(all, modeElements(z.Mode4, "4", bridge)...)
	all = append(all, modeElements(z.Mode6, "6", bridge)...)
	for _, s := range z.Subnets {
		switch {
		case s.Masquerade && s.Source.IsValid():
			chosen := prefixElement(mapSource, s.Prefix)
			chosen.value = rawAddr(s.Source)
			all = append(all, chosen)
		case s.Masquerade:
			all = append(all, prefixElement(setMasquerade, s.Prefix))
		}
		hairpin := prefixElement(setHairpin, s.Prefix)
		hairpin.key, hairpin.last = hairpin.key+bridge, hairpin.last+bridge
		all = append(all, hairpin)
	}
	return all
}

func modeElements(mode spec.GatewayMode, family, bridge string) []element {
	switch mode {
	case spec.Unprotected:
		return []element{{set: setUnprotected + family, key: bridge}}
	case spec.Routed:
		return []element{{set: setRouted + family, key: bridge}}
	}
	return nil
}

// endpointElements are an endpoint's published and open ports, its addresses where
// others may be on the bridge and, if it is to be kept apart from others, its port of
// the bridge.
func endpointElements(z *plan.Zone, e *plan.Endpoint) []element {
	if e == nil {
		return nil
	}
	var all []element
	for _, m := range e.Mappings {
		all = append(all, mappingElements(m)...)
	}
	for _, o := range e.Open {
		key := rawAddr(o.Addr) + rawProto(o.Proto)
		all = append(all, element{set: suffixed(setOpen, o.Addr), key: key + rawPort(o.First), last: key + rawPort(o.Last)})
	}
	if z.Shared {
		for _, a := range e.Addresses {
			all = append(all, element{set: suffixed(setResidents, a), key: rawName(z.Bridge) + rawAddr(a)})
		}
	}
	if z.Apart {
		all = append(all, element{set: setApart, key: rawName(e.Veth.Name)})
	}
	return all
}

// mappingElements are one element, or for a range onto other ports, which nftables cannot
// shift, one a port.
func mappingElements(m plan.Mapping) []element {
	if m.First == m.Last || m.ToPort == m.First {
		return []element{mappingElement(m)}
	}
	var all []element
	for i := range m.Last - m.First + 1 {
		one := m
		one.First, one.Last, one.ToPort = m.First+i, m.First+i, m.ToPort+i
		all = append(all, mappingElement(one))
	}
	return all
}

func mappingElement(m plan.Mapping) element {
	ports, ranges, addr := mapPortsAny, mapRangesAny, ""
	if !m.Host.IsUnspecified() {
		ports, ranges, addr = mapPortsAddr, mapRangesAddr, rawAddr(m.Host)
	}
	key := addr + rawProto(m.Proto)
	if m.First != m.Last {
		return element{set: suffixed(ranges, m.Host), key: key + rawPort(m.First), last: key + rawPort(m.Last), value: rawAddr(m.To)}
	}
	return element{set: suffixed(ports, m.Host), key: key + rawPort(m.First), value: rawAddr(m.To) + rawPort(m.ToPort)}
}

func prefixElement(set string, p netip.Prefix) element {
	return element{set: suffixed(set, p.Addr()), key: rawAddr(p.Masked().Addr()), last: rawAddr(lastOf(p))}
}

func suffixed(set string, a netip.Addr) string {
	if a.Is4() {
		return set + "4"
	}
	return set + "6"
}

// encode puts an element into the form of the kernel's messages.
func (s *set) encode(e element) []nftables.SetElement {
	first := nftables.SetElement{Key: []byte(e.key), Val: []byte(e.value)}
	if !s.paired() {
		first.KeyEnd = []byte(e.last)
		return []nftables.SetElement{first}
	}
	behind, ok := successor(e.last)
	if !ok {
		return []nftables.SetElement{first} // open to the end of all keys
	}
	return []nftables.SetElement{first, {Key: []byte(behind), IntervalEnd: true}}
}

// decode is the reverse of encode for all elements of a set.
func (s *set) decode(raw []nftables.SetElement) []element {
	if s.paired() {
		return s.decodePairs(raw)
	}
	var all []element
	for _, r := range raw {
		e := element{set: s.name, key: string(r.Key), last: string(r.KeyEnd), value: string(r.Val)}
		if s.interval && e.last == "" {
			e.last = e.key
		}
		all = append(all, e)
	}
	return all
}

func (s *set) decodePairs(raw []nftables.SetElement) []element {
	// Where one interval ends and the next begins with the same key, the end comes first.
	slices.SortStableFunc(raw, func(a, b nftables.SetElement) int {
		switch c := strings.Compare(string(a.Key), string(b.Key)); {
		case c != 0 || a.IntervalEnd == b.IntervalEnd:
			return c
		case a.IntervalEnd:
			return -1
		}
		return 1
	})
	var all []element
	open := false
	for _, r := range raw {
		switch {
		case !r.IntervalEnd:
			all = append(all, element{set: s.name, key: string(r.Key), last: strings.Repeat("\xff", len(r.Key)), value: string(r.Val)})
		case open:
			all[len(all)-1].last = predecessor(string(r.Key))
		}
		open = !r.IntervalEnd
	}
	return all
}

// successor and predecessor count one up or down; the greatest key has no successor.
func successor(key string) (string, bool) {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

func predecessor(key string) string {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return string(b)
}
