package nftables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tableName is our one table, of family inet: both families in one place.
const tableName = "drawbridge"

// The sets and maps. Those that end in 4 or 6 exist once a family.
const (
	setBridges    = "bridges"     // our bridges
	setSameBridge = "same_bridge" // each of them with itself
	setInternal   = "internal"    // those of internal networks
	setEngines    = "engines"     // the bridges of engines
	setEngineNets = "engines"     // + 4 or 6: their subnets
	setGuard      = "guard"       // + 4 or 6: uplinks that forward only for us
	setMasquerade = "masquerade"  // + 4 or 6: subnets that hide behind the host's address
	setHairpin    = "hairpin"     // + 4 or 6: each subnet with its bridge
	mapPortsAddr  = "ports_addr"  // + 4 or 6: a port of one address of the host
	mapRangesAddr = "ranges_addr" // + 4 or 6: a range of ports of one address
	mapPortsAny   = "ports_any"   // + 4 or 6: a port of every address
	mapRangesAny  = "ranges_any"  // + 4 or 6: a range of ports of every address
)

// table is what stands in the kernel whatever is planned. It never varies; all
// that does is an element of one of its sets.
type table struct {
	sets   map[string]*set
	order  []*set // by name
	chains []chain
}

// set is a named set, or a map if it has values.
type set struct {
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

func newTable() *table {
	t := &table{sets: map[string]*set{}}
	t.add(&set{name: setBridges, key: []kind{ifname}})
	t.add(&set{name: setSameBridge, key: []kind{ifname, ifname}})
	t.add(&set{name: setInternal, key: []kind{ifname}})
	t.add(&set{name: setEngines, key: []kind{ifname}})
	for _, f := range families() {
		t.addFamily(f)
	}
	slices.SortFunc(t.order, func(a, b *set) int { return strings.Compare(a.name, b.name) })
	for i, s := range t.order {
		s.id = uint32(i + 1)
	}
	t.chains = chains()
	return t
}

func (t *table) add(s *set) {
	t.sets[s.name] = s
	t.order = append(t.order, s)
}

// addFamily adds the sets of one family. A published port is looked for in four
// maps, since one map of intervals can not hold a port of every address and the
// same port of one address (EEXIST, depending on which came first).
func (t *table) addFamily(f family) {
	t.add(&set{name: f.set(setEngineNets), key: []kind{f.addr}, interval: true})
	t.add(&set{name: f.set(setGuard), key: []kind{ifname}})
	t.add(&set{name: f.set(setMasquerade), key: []kind{f.addr}, interval: true})
	t.add(&set{name: f.set(setHairpin), key: []kind{f.addr, ifname}, interval: true})
	t.add(&set{name: f.set(mapPortsAddr), key: []kind{f.addr, protocol, service}, value: []kind{f.addr, service}})
	t.add(&set{name: f.set(mapRangesAddr), key: []kind{f.addr, protocol, service}, value: []kind{f.addr}, interval: true})
	t.add(&set{name: f.set(mapPortsAny), key: []kind{protocol, service}, value: []kind{f.addr, service}})
	t.add(&set{name: f.set(mapRangesAny), key: []kind{protocol, service}, value: []kind{f.addr}, interval: true})
}

func chains() []chain {
	v4, v6 := families()[0], families()[1]
	return []chain{
		{"raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300, rawRules()},
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, jumpRules(v4, v6)},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100, jumpRules(v4, v6)},
		{"publish4", "", nil, 0, publishRules(v4)},
		{"publish6", "", nil, 0, slices.Concat(untranslatedRules(), publishRules(v6))},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, forwardRules(v4, v6)},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 99, postroutingRules(v4, v6)},
	}
}

// rawRules stand before connection tracking turns addresses back: answers to what
// we translated for 127.0.0.1 still show the bridge's address here and pass.
// Everything else that claims to be of the loopback network would, with
// route_localnet on a bridge, reach what listens on the host's 127.0.0.1.
func rawRules() []rule {
	const why = "nobody else speaks for the loopback"
	return []rule{
		{`iifname != "lo" ip daddr 127.0.0.0/8 counter drop`, why, join(notFrom("lo"), loopback(daddr), drop())},
		{`iifname != "lo" ip saddr 127.0.0.0/8 counter drop`, why, join(notFrom("lo"), loopback(saddr), drop())},
	}
}

// jumpRules send to the published ports what is meant for this host: a connection
// that only passes through keeps its destination.
func jumpRules(v4, v6 family) []rule {
	jump := func(f family) rule {
		chain := f.set("publish")
		text := fmt.Sprintf("meta nfproto %s fib daddr type local jump %s", f.proto, chain)
		return rule{text, "published ports", join(f.only(), forThisHost(), jumpTo(chain))}
	}
	return []rule{jump(v4), jump(v6)}
}

// untranslatedRules keep from being published what no container could answer: the
// kernel routes ::1 to no other interface, and link-local addresses nowhere.
func untranslatedRules() []rule {
	return []rule{
		{"ip6 daddr ::1 return", "no route_localnet in IPv6", join(isIPv6(), localhost6(), verdict(expr.VerdictReturn))},
		{"ip6 saddr fe80::/10 return", "link-local addresses are not routed", join(isIPv6(), linkLocal6(), verdict(expr.VerdictReturn))},
	}
}

func publishRules(f family) []rule {
	proto := "meta nfproto " + f.proto
	dnat := func(key, set, comment string, exprs ...[]expr.Any) rule {
		text := fmt.Sprintf("%s dnat %s to %s map @%s", proto, f.name, key, f.set(set))
		return rule{text, comment, join(f.only(), join(exprs...))}
	}
	withAddr, withoutAddr := f.name+" daddr . meta l4proto . th dport", "meta l4proto . th dport"
	return []rule{
		dnat(withAddr, mapPortsAddr, "a port of one address", f.destination(true), f.translate(mapPortsAddr, true)),
		dnat(withAddr, mapRangesAddr, "a range of one address", f.destination(true), f.translate(mapRangesAddr, false)),
		dnat(withoutAddr, mapPortsAny, "a port of every address", f.destination(false), f.translate(mapPortsAny, true)),
		dnat(withoutAddr, mapRangesAny, "a range of every address", f.destination(false), f.translate(mapRangesAny, false)),
	}
}

// forwardRules judge, after the guard, only what enters or leaves a bridge of ours.
func forwardRules(v4, v6 family) []rule {
	guard := func(f family) rule {
		set := f.set(setGuard)
		text := fmt.Sprintf("meta nfproto %s iifname @%s oifname @%s counter drop", f.proto, set, set)
		return rule{text, "this host forwards for containers only", join(f.only(), from(set), to(set), drop())}
	}
	accept := verdict(expr.VerdictAccept)
	return []rule{
		guard(v4),
		guard(v6),
		{"iifname != @bridges oifname != @bridges accept", "not ours", join(notFromSet(setBridges), notToSet(setBridges), accept)},
		{"iifname . oifname @same_bridge accept", "within one network", join(fromTo(setSameBridge), accept)},
		{"iifname @internal counter drop", "nothing leaves an internal network", join(from(setInternal), drop())},
		{"oifname @internal counter drop", "nothing enters an internal network", join(to(setInternal), drop())},
		{"ct state established,related accept", "answers", join(state(established|related), accept)},
		{"ct state invalid counter drop", "would leave untranslated", join(state(invalid), drop())},
		{"ct status dnat accept", "published ports, an engine's too", join(translated(), accept)},
		{"oifname @bridges counter drop", "not published", join(to(setBridges), drop())},
		{"iifname @bridges oifname @engines counter drop", "not published by the engine", join(from(setBridges), to(setEngines), drop())},
	}
}

// postroutingRules see every packet that leaves, bridged ones too where
// br_netfilter is on, and hence must not ask where a packet came in: bridged ones
// have no such interface. Priority 99 is ahead of the engines' own masquerade.
func postroutingRules(v4, v6 family) []rule {
	masquerade := []expr.Any{&expr.Masq{}}
	rules := []rule{{
		`ip saddr 127.0.0.0/8 oifname @bridges masquerade`, "127.0.0.1 to a published port",
		join(loopback(saddr), to(setBridges), masquerade),
	}}
	for _, f := range []family{v4, v6} {
		rules = append(rules,
			rule{
				fmt.Sprintf("ct status dnat %s saddr . oifname @%s masquerade", f.name, f.set(setHairpin)),
				"client and server on one network",
				join(translated(), f.only(), f.sourceTo(setHairpin), masquerade),
			},
			rule{
				fmt.Sprintf("ct status dnat oifname @bridges %s saddr @%s snat %s to %s saddr", f.name, f.set(setEngineNets), f.name, f.name),
				"clients of an engine's networks keep their address",
				join(translated(), to(setBridges), f.only(), f.source(setEngineNets), f.keepSource()),
			},
			rule{
				fmt.Sprintf(`%s saddr @%s oifname != "lo" oifname != @bridges masquerade`, f.name, f.set(setMasquerade)),
				"containers to the outside",
				join(f.only(), f.source(setMasquerade), notTo("lo"), notToSet(setBridges), masquerade),
			})
	}
	return rules
}
