package nftables

import (
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tableName is the name of both our tables: that of family inet judges, for IPv4 and
// IPv6, what the host routes, that of family bridge what passes from port to port.
const tableName = "drawbridge"

// handed is the one bit of the packet mark that we use. It says that the host has
// this packet of a container in hand, so that it does not merely pass from port to
// port of one bridge: the tables have no other way to tell each other.
//
// Bit 12 is in nobody's way: kube-proxy and the port mapper of CNI use 0x2000, 0x4000
// and 0x8000, Cilium 0x0f00, Tailscale 0xff0000, Calico 0xffff0000, and Docker's
// ingress, AWS's CNI and Istio the bits below. A container can not set it, since no
// mark leaves a network namespace (skb_scrub_packet in net/core/skbuff.c).
const handed = 0x1000

// The sets and maps. Those that end in 4 or 6 exist once a family.
const (
	setBridges      = "bridges"       // our bridges
	setOwn          = "own"           // those that others can not be on
	setSameBridge   = "same_bridge"   // each of them, and each guarded one of others, with itself
	setApartBridges = "apart_bridges" // those whose containers are kept apart
	setApart        = "apart"         // of the other table: these containers' ports
	setInternal     = "internal"      // those of internal networks
	setTrusted      = "trusted"       // an interface that may reach open ports, with the bridge
	setUnprotected  = "unprotected"   // + 4 or 6: bridges whose containers are wholly open
	setRouted       = "routed"        // + 4 or 6: bridges whose containers' open ports are
	setOpen         = "open"          // + 4 or 6: ports of containers' own addresses
	setEngines      = "engines"       // the bridges of engines
	setEngineNets   = "engines"       // + 4 or 6: their subnets
	setGuard        = "guard"         // + 4 or 6: what forwards only for containers
	setResidents    = "residents"     // + 4 or 6: containers on bridges that others may be on
	setMasquerade   = "masquerade"    // + 4 or 6: subnets that hide behind the host's address
	mapSource       = "source"        // + 4 or 6: subnets that hide behind an address of choice
	setHairpin      = "hairpin"       // + 4 or 6: each subnet with its bridge
	mapPortsAddr    = "ports_addr"    // + 4 or 6: a port of one address of the host
	mapRangesAddr   = "ranges_addr"   // + 4 or 6: a range of ports of one address
	mapPortsAny     = "ports_any"     // + 4 or 6: a port of every address
	mapRangesAny    = "ranges_any"    // + 4 or 6: a range of ports of every address
)

// ruleset is what stands in the kernel whatever is planned. It never varies; all
// that does is an element of one of its sets.
type ruleset struct {
	inet, bridge *table
	sets         map[string]*set // of both
}

// table is one of the two.
type table struct {
	kernel *nftables.Table
	label  string // in the names of its objects
	sets   []*set // by name
	chains []chain
}

// String is e.g. table inet drawbridge.
func (t *table) String() string { return "table " + familyName(t.kernel.Family) + " " + t.kernel.Name }

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyINet {
		return "inet"
	}
	return "bridge"
}

// set is a named set, or a map if it has values.
type set struct {
	table      *table
	name       string
	id         uint32
	key, value []kind
	// interval says that the key's parts may be ranges.
	interval bool
}

// paired reports whether the kernel keeps the elements as pairs of a first key and
// the first key behind the last (net/netfilter/nft_set_rbtree.c), and not as one
// element with two keys (nft_set_pipapo.c).
func (s *set) paired() bool { return s.interval && len(s.key) == 1 }

// chain is a chain of the table; one without a type has no hook and is jumped to.
type chain struct {
	name     string
	typ      nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// rule is one rule twice: as a person reads it and as the kernel does.
type rule struct {
	text    string // e.g. ct state invalid counter drop
	comment string // why
	exprs   []expr.Any
}

func newRuleset() *ruleset { return newRulesetIn(tableName) }

// newRulesetIn is that of tables of some name.
func newRulesetIn(name string) *ruleset {
	r := &ruleset{sets: map[string]*set{}}
	inet, bridge := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}, &nftables.Table{Name: name, Family: nftables.TableFamilyBridge}
	r.inet = r.table(inet, "", inetSets(), inetChains())
	r.bridge = r.table(bridge, "bridge ", []*set{{name: setApart, key: []kind{ifname}}}, bridgeChains())
	return r
}

func (r *ruleset) table(kernel *nftables.Table, label string, sets []*set, chains []chain) *table {
	t := &table{kernel: kernel, label: label, sets: sets, chains: chains}
	slices.SortFunc(sets, func(a, b *set) int { return strings.Compare(a.name, b.name) })
	for _, s := range sets {
		r.sets[s.name] = s
		s.table, s.id = t, uint32(len(r.sets))
	}
	return t
}

func inetSets() []*set {
	all := []*set{
		{name: setBridges, key: []kind{ifname}},
		{name: setOwn, key: []kind{ifname}},
		{name: setSameBridge, key: []kind{ifname, ifname}},
		{name: setApartBridges, key: []kind{ifname}},
		{name: setInternal, key: []kind{ifname}},
		{name: setTrusted, key: []kind{ifname, ifname}},
		{name: setEngines, key: []kind{ifname}},
	}
	for _, f := range families() {
		all = append(all, familySets(f)...)
	}
	return all
}

// familySets are the sets of one family. A published port is looked for in four
// maps, since one map of intervals can not hold a port of every address and the
// same port of one address (EEXIST, depending on which came first).
func familySets(f family) []*set {
	return []*set{
		{name: f.set(setUnprotected), key: []kind{ifname}},
		{name: f.set(setRouted), key: []kind{ifname}},
		{name: f.set(setOpen), key: []kind{f.addr, protocol, service}, interval: true},
		{name: f.set(setEngineNets), key: []kind{f.addr}, interval: true},
		{name: f.set(setGuard), key: []kind{ifname}},
		{name: f.set(setResidents), key: []kind{ifname, f.addr}},
		{name: f.set(setMasquerade), key: []kind{f.addr}, interval: true},
		{name: f.set(mapSource), key: []kind{f.addr}, value: []kind{f.addr}, interval: true},
		{name: f.set(setHairpin), key: []kind{f.addr, ifname}, interval: true},
		{name: f.set(mapPortsAddr), key: []kind{f.addr, protocol, service}, value: []kind{f.addr, service}},
		{name: f.set(mapRangesAddr), key: []kind{f.addr, protocol, service}, value: []kind{f.addr}, interval: true},
		{name: f.set(mapPortsAny), key: []kind{protocol, service}, value: []kind{f.addr, service}},
		{name: f.set(mapRangesAny), key: []kind{protocol, service}, value: []kind{f.addr}, interval: true},
	}
}
