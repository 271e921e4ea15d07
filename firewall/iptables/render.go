package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Our chains.
const (
	chainRaw     = "DRAWBRIDGE-RAW"         // raw: what claims to be of the loopback
	chainForward = "DRAWBRIDGE-FORWARD"     // mangle: what passes from interface to interface
	chainGuard   = "DRAWBRIDGE-GUARD"       // mangle: what came by an interface that forwards only for containers
	chainOut     = "DRAWBRIDGE-OUT"         // mangle: what comes from a bridge of ours
	chainIn      = "DRAWBRIDGE-IN"          // mangle: what goes to one
	chainOpen    = "DRAWBRIDGE-OPEN"        // mangle: what may go to open ports, and to no others
	chainApart   = "DRAWBRIDGE-APART"       // mangle: what passes from port to port of a bridge with more on it
	chainTrial   = "DRAWBRIDGE-TRIAL"       // any: a rule that may be refused, for a moment
	chainApartTo = "DRAWBRIDGE-APART-TO"    // mangle: what of that comes from a container
	chainAdvice  = "DRAWBRIDGE-ADVICE"      // mangle: what the host tells of a better way
	chainPublish = "DRAWBRIDGE-PUBLISH"     // nat: what is meant for this host
	chainPost    = "DRAWBRIDGE-POSTROUTING" // nat: what leaves
	chainEnter   = "DRAWBRIDGE-ENTER"       // nat: what leaves by a bridge of ours
)

// renderer writes the rules of one family.
type renderer struct {
	ruleset
	family int
	// guards says that the host did not forward before we came.
	guards bool
	// bridged says that what passes from port to port of one bridge is seen here. Where
	// it is not, no rule may ask for ports (physdev): that would load br_netfilter, and
	// have every chain of the host judge what any bridge passes.
	bridged bool
	lacks   lacks
	// owner is for whom rules are added, and needs what the kernel may lack for them.
	owner plan.Owner
	needs feature
}

// render is all that a plan wants of a kernel that lacks nothing.
func render(p *plan.Plan) ruleset { return lacks(nil).render(p) }

// render is all that a plan wants of such a kernel.
func (l lacks) render(p *plan.Plan) ruleset {
	s := ruleset{}
	for _, family := range families(p.Host) {
		r := renderer{ruleset: s, family: family, lacks: l, guards: family == 4 && p.Guard4 || family == 6 && p.Guard6}
		r.bridged = p.Host != nil && !p.Host.Unseen(family)
		r.jumps()
		r.fixed()
		r.host(p)
		for id, n := range p.Networks.All() {
			r.owner = plan.Owner{Network: id}
			r.network(n)
			r.own(n.Zone)
			for id, e := range n.Endpoints.All() {
				r.owner.Endpoint = id
				r.endpoint(n, e)
			}
		}
	}
	s.sort()
	return s
}

// isWildcard reports whether iptables would read the name as every name that begins so,
// which it has no way to say otherwise. Nobody names an interface of ours like that.
func isWildcard(name string) bool { return strings.HasSuffix(name, "+") }

// say adds a rule, e.g. say(rankRest, mangle(chainIn), "-j DROP", why).
func (r renderer) say(rank int, at place, text, why string) {
	words := strings.Fields(text)
	i := len(words) - 1
	for words[i] != "-j" && words[i] != "-g" {
		i--
	}
	at.family = r.family
	r.add(at, rule{rank: rank, match: words[:i], action: words[i:], why: why, owner: r.owner, needs: r.needs})
}

// needing adds rules that need a feature.
func (r renderer) needing(f feature) renderer {
	r.needs = f
	return r
}

func mangle(chain string) place { return place{table: "mangle", chain: chain} }
func nat(chain string) place    { return place{table: "nat", chain: chain} }
func raw(chain string) place    { return place{table: "raw", chain: chain} }

// jumps are the only rules in chains that are not ours.
func (r renderer) jumps() {
	if r.family == 4 {
		r.say(first, raw("PREROUTING"), "-j "+chainRaw, "the loopback is the host's own")
	}
	r.say(first, mangle("FORWARD"), "-j "+chainForward, "what enters or leaves a bridge of ours")
	r.say(first, mangle("OUTPUT"), r.redirect()+" -j "+chainAdvice, "what the host tells of a better way")
	r.say(anywhere, nat("PREROUTING"), "-m addrtype --dst-type LOCAL -j "+chainPublish, "published ports")
	r.say(anywhere, nat("OUTPUT"), "-m addrtype --dst-type LOCAL -j "+chainPublish, "published ports, for the host itself")
	// An engine puts its masquerade ahead of what it finds.
	r.say(first, nat("POSTROUTING"), "-j "+chainPost, "ahead of an engine's masquerade")
}

// redirect matches a router's word for a better way.
func (r renderer) redirect() string {
	if r.family == 6 {
		return "-p ipv6-icmp -m icmp6 --icmpv6-type redirect"
	}
	return "-p icmp -m icmp --icmp-type redirect"
}

// Ranks of a jump: ahead of everybody's rules, or wherever somebody has moved it.
const (
	first = iota
	anywhere
)

// What two rules give as their reason.
const (
	whyApart        = "containers that are kept apart"
	whyNotPublished = "not published"
)

// Ranks in chainForward, where what is returned has been judged.
const (
	rankSame        = iota // within one bridge
	rankGuard              // from interfaces that forward for containers only
	rankLeave              // from internal networks
	rankEnter              // to internal networks
	rankEstablished        // answers
	rankOut                // from any other bridge of ours
	rankIn                 // to any other bridge of ours
)

// Ranks in chainGuard.
const (
	rankResident = iota // containers, and bridges that others can not be on
	rankOthers          // nobody else
)

// Ranks in chainOut, chainIn and chainApart.
const (
	rankTranslated = iota // published
	rankBack              // back into the bridge
	rankPort              // to a port of it
	rankEngines           // to an engine's containers
	rankOpen              // by the network's mode
	rankGate              // ports that are open
	rankRest              // nothing else
)

// Ranks in chainPublish: what no container could answer, then what is meant for one
// address ahead of what is for all.
const (
	rankNever = iota
	rankAddr
	rankAny
)

// Ranks in chainPost and chainEnter.
const (
	rankLoopback     = iota // of the host itself
	rankKeep                // from an engine's subnet
	rankUntranslated        // to containers' own addresses
	rankBridge              // into a bridge of ours
	rankSource              // from a subnet
)

// fixed are the rules that never vary.
func (r renderer) fixed() {
	if r.family == 4 {
		const why = "nobody else speaks for the loopback"
		// Before connection tracking turns addresses back: answers to what we translated
		// for 127.0.0.1 still show the bridge's address here and pass.
		r.say(0, raw(chainRaw), "! -i lo -d 127.0.0.0/8 -j DROP", why)
		r.say(0, raw(chainRaw), "! -i lo -s 127.0.0.0/8 -j DROP", why)
		r.say(rankLoopback, nat(chainEnter), "-s 127.0.0.0/8 -j MASQUERADE", "127.0.0.1 to a published port")
	} else {
		r.say(rankNever, nat(chainPublish), "-d ::1/128 -j RETURN", "no route_localnet in IPv6")
		r.say(rankNever, nat(chainPublish), "-s fe80::/10 -j RETURN", "link-local addresses are not routed")
	}
	r.say(rankEstablished, mangle(chainForward), "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "answers")
	const translated = "-m conntrack --ctstate DNAT -j RETURN"
	for _, chain := range []string{chainOut, chainIn} {
		r.say(rankTranslated, mangle(chain), translated, "published ports, an engine's too")
	}
	r.say(rankRest, mangle(chainOut), "-m conntrack --ctstate INVALID -j DROP", "would leave untranslated")
	// Published to the same bridge, where br_netfilter has it go there without routing.
	r.say(rankTranslated, mangle(chainApartTo), translated, "published ports")
	r.say(rankRest, mangle(chainIn), "-j DROP", whyNotPublished)
	r.say(rankRest, mangle(chainOpen), "-j DROP", whyNotPublished)
	r.say(rankLoopback, nat(chainPost), "-o lo -j RETURN", "the host to itself")
	r.say(rankUntranslated, nat(chainEnter), "-m conntrack ! --ctstate DNAT -j RETURN", "containers' own addresses")
	for _, empty := range []place{mangle(chainGuard), mangle(chainApart), mangle(chainAdvice), nat(chainPublish)} {
		empty.family = r.family
		r.ruleset[empty] = slices.Clone(r.ruleset[empty]) // there, even if nothing is in it
	}
}

// host names the interfaces that are not ours.
func (r renderer) host(p *plan.Plan) {
	if p.Host == nil {
		return
	}
	r.guard(p)
	var nets []netip.Prefix
	for _, e := range p.Host.Engines {
		if !isWildcard(e.Name) {
			r.say(rankEngines, mangle(chainOut), fmt.Sprintf("-o %s -j DROP", e.Name), "not published by the engine")
		}
		if e.Shielded {
			continue // the answer to a client that keeps its address would be dropped
		}
		for _, s := range e.Subnets {
			if r.has(s.Addr()) {
				nets = append(nets, s.Masked())
			}
		}
	}
	const why = "clients of an engine's networks keep their address"
	for _, s := range nets {
		if r.lacks.has(featureKeep) { // an accept ends what the same iptables would do with it
			r.say(rankKeep, nat(chainEnter), fmt.Sprintf("-s %s -j ACCEPT", s), why)
		} else {
			r.needing(featureKeep).say(rankKeep, nat(chainEnter), fmt.Sprintf("-s %s -j NETMAP --to %s", s, s), why)
		}
	}
}

// guard keeps the interfaces of a host that did not forward before we came from
// forwarding to others than containers. What a bridge passes from port to port is not meant; where
// br_netfilter is on it is seen here.
func (r renderer) guard(p *plan.Plan) {
	if !r.guards {
		return
	}
	for _, name := range p.Bridges {
		if !isWildcard(name) {
			r.say(rankSame, mangle(chainForward), fmt.Sprintf("-i %s -o %s -j RETURN", name, name), "within one network")
		}
	}
	guarded := p.Guarded4
	if r.family == 6 {
		guarded = p.Guarded6
	}
	const why = "this host forwards for containers only"
	for _, name := range guarded {
		if !isWildcard(name) {
			r.say(rankGuard, mangle(chainForward), fmt.Sprintf("-i %s -j %s", name, chainGuard), why)
		}
	}
	r.say(rankOthers, mangle(chainGuard), "-j DROP", why)
}

// own lets pass the guard what goes to a bridge that others can not be on.
func (r renderer) own(z *plan.Zone) {
	if r.guards && !z.Shared {
		r.say(rankResident, mangle(chainGuard), fmt.Sprintf("-o %s -j RETURN", z.Bridge), "to containers")
	}
}

// has reports whether an address is of the family.
func (r renderer) has(a netip.Addr) bool { return a.Is4() == (r.family == 4) }
