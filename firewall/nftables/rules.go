package nftables

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func inetChains() []chain {
	v4, v6 := families()[0], families()[1]
	return []chain{
		{"raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300, rawRules()},
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, jumpRules(v4, v6)},
		{"translated", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -90, markRules()},
		{"sent", nftables.ChainTypeFilter, nftables.ChainHookOutput, -150, sentRules(v4, v6)},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100, jumpRules(v4, v6)},
		{"publish4", "", nil, 0, publishRules(v4)},
		{"publish6", "", nil, 0, slices.Concat(untranslatedRules(), publishRules(v6))},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, forwardRules(v4, v6)},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 99, postroutingRules(v4, v6)},
	}
}

// bridgeChains stand ahead of br_netfilter (NF_BR_PRI_BRNF is 0), with which or without
// which they do the same.
func bridgeChains() []chain {
	return []chain{
		{"input", nftables.ChainTypeFilter, nftables.ChainHookInput, -200, handOverRules()},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, -200, apartRules()},
	}
}

// handOverRules know what the other table can not see: whether a packet that leaves
// by the bridge it came from was routed, or has br_netfilter merely shown it.
func handOverRules() []rule {
	return []rule{{
		"iifname @apart " + setMarkText(), "the host has it in hand",
		join(from(setApart), setMark()),
	}}
}

// apartRules let ARP pass, as an engine's do. Neighbour discovery is IPv6 like any
// other: nobody needs it but for the gateway, which is not behind a port. Ports that
// are not of containers, on a bridge that was there before, are in no set.
func apartRules() []rule {
	return []rule{{
		"iifname @apart oifname @apart meta protocol != arp " + unmarkedText() + " counter drop", "containers that are kept apart",
		join(from(setApart), to(setApart), notARP(), unmarked(), drop()),
	}}
}

// markRules stand behind the translation. Where br_netfilter is on, what it leads to a
// port of the same bridge goes there without being routed.
func markRules() []rule {
	return []rule{{
		"iifname @apart_bridges ct status dnat " + setMarkText(), "published ports, of containers that are kept apart too",
		join(from(setApartBridges), translated(), setMark()),
	}}
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

// guardRule lets pass what enters by an interface that forwards for containers only
// where it goes to a bridge of our own. From and to a bridge that others may be on passes
// what a container there sends or is sent. It asks where a packet enters, as the kernel
// does: whatever else it could leave by did not get it before we came. What goes back into
// a bridge has been judged before: where br_netfilter is on, that is also what merely
// passes from port to port.
func guardRule(f family) rule {
	guard, residents := f.set(setGuard), f.set(setResidents)
	text := fmt.Sprintf("meta nfproto %s iifname @%s oifname != @%s iifname . %s saddr != @%s oifname . %s daddr != @%s counter drop",
		f.proto, guard, setOwn, f.name, residents, f.name, residents)
	return rule{text, "this host forwards for containers only", join(f.only(), from(guard), notToSet(setOwn),
		f.notResident(expr.MetaKeyIIFNAME, f.saddr), f.notResident(expr.MetaKeyOIFNAME, f.daddr), drop())}
}

// invalidRule drops what belongs to no connection, and hence nobody would translate. In
// mode routed nothing is translated, and the other half of a connection may go by another
// router.
func invalidRule(f family) rule {
	routed := f.set(setRouted)
	text := fmt.Sprintf("meta nfproto %s iifname @bridges iifname != @%s ct state invalid counter drop", f.proto, routed)
	return rule{text, "would leave untranslated", join(f.only(), from(setBridges), notFromSet(routed), state(invalid), drop())}
}

// forwardRules judge, after the guard, only what enters or leaves a bridge of ours.
func forwardRules(v4, v6 family) []rule {
	accept := verdict(expr.VerdictAccept)
	same := fromTo(setSameBridge)
	return slices.Concat([]rule{
		{"iifname . oifname @same_bridge iifname != @apart_bridges accept", "within one network", join(same, notFromSet(setApartBridges), accept)},
		{"iifname . oifname @same_bridge " + unmarkedText() + " accept", "from port to port, which the other table has judged", join(same, unmarked(), accept)},
		guardRule(v4),
		guardRule(v6),
		{"iifname != @bridges oifname != @bridges accept", "not ours", join(notFromSet(setBridges), notToSet(setBridges), accept)},
		{"iifname @internal counter drop", "nothing leaves an internal network", join(from(setInternal), drop())},
		{"oifname @internal counter drop", "nothing enters an internal network", join(to(setInternal), drop())},
		{"ct state established,related accept", "answers", join(state(established|related), accept)},
		invalidRule(v4),
		invalidRule(v6),
		{"ct status dnat accept", "published ports, an engine's too", join(translated(), accept)},
		{"iifname . oifname @same_bridge counter drop", "containers that are kept apart, by way of the gateway", join(same, drop())},
	}, modeRules(v4), modeRules(v6), []rule{
		{"oifname @bridges counter drop", "not published", join(to(setBridges), drop())},
		{"iifname @bridges oifname @engines counter drop", "not published by the engine", join(from(setBridges), to(setEngines), drop())},
	})
}

// modeRules open containers' own addresses, whoever asks.
func modeRules(f family) []rule {
	proto := "meta nfproto " + f.proto
	accept := verdict(expr.VerdictAccept)
	open := fmt.Sprintf("%s daddr . meta l4proto . th dport @%s accept", f.name, f.set(setOpen))
	routed := f.set(setRouted)
	return []rule{
		{
			fmt.Sprintf("%s oifname @%s accept", proto, f.set(setUnprotected)), "gateway mode nat-unprotected",
			join(f.only(), to(f.set(setUnprotected)), accept),
		},
		{
			fmt.Sprintf("%s oifname @%s meta l4proto %s accept", proto, routed, f.icmpName), "gateway mode routed: ping, and what routers report",
			join(f.only(), to(routed), f.isICMP(), accept),
		},
		{
			fmt.Sprintf("%s oifname @%s %s", proto, routed, open), "gateway mode routed",
			join(f.only(), to(routed), f.destination(true), f.opened(), accept),
		},
		{
			fmt.Sprintf("%s iifname . oifname @%s %s", proto, setTrusted, open), "interfaces that are trusted",
			join(f.only(), fromTo(setTrusted), f.destination(true), f.opened(), accept),
		},
	}
}

// sentRules judge what the host itself says. A container that sends to a peer by way of
// the gateway has been told to, and need not be told of a nearer way. No sysctl of a
// bridge stops the kernel: in IPv4 that of all interfaces is enough for it to speak, in
// IPv6 there is none. Translation drops some redirects, and would count none.
func sentRules(v4, v6 family) []rule {
	advice := func(f family) rule {
		return rule{
			f.redirectText + " oifname @bridges counter drop", "no redirects to containers",
			join(f.redirect(), to(setBridges), drop()),
		}
	}
	return []rule{advice(v4), advice(v6)}
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
				fmt.Sprintf("oifname @bridges %s saddr @%s snat %s to %s saddr", f.name, f.set(setEngineNets), f.name, f.name),
				"clients of an engine's networks keep their address",
				join(to(setBridges), f.only(), f.source(setEngineNets), f.keepSource()),
			},
			rule{
				fmt.Sprintf(`meta nfproto %s oifname != "lo" oifname != @bridges snat %s to %s saddr map @%s`, f.proto, f.name, f.name, f.set(mapSource)),
				"containers to the outside, by an address of choice",
				join(f.only(), notTo("lo"), notToSet(setBridges), f.chooseSource()),
			},
			rule{
				fmt.Sprintf(`%s saddr @%s oifname != "lo" oifname != @bridges masquerade`, f.name, f.set(setMasquerade)),
				"containers to the outside",
				join(f.only(), f.source(setMasquerade), notTo("lo"), notToSet(setBridges), masquerade),
			})
	}
	return rules
}
