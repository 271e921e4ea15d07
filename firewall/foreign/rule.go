package foreign

import (
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// rule is what we understand of an iptables rule.
type rule struct {
	in, out string // matched exactly; "" for none, for a negated one and for a wildcard
	target  string // e.g. ACCEPT or DOCKER-USER
	comment string
	plain   bool     // it matches nothing else
	drains  bool     // it leads to a chain that drops all that comes, and leaves nothing
	args    []string // as iptables takes them; nil if not read as text
	handle  uint64   // nftables' own name of it; 0 if read as text, or not yet there
}

// ours reports whether the rule carries a network's mark.
func (r rule) ours() bool { return strings.HasPrefix(r.comment, plan.NetworkMark("")) }

// identity is what makes two rules the same to us.
type identity struct {
	in, out, target, comment string
	plain                    bool
}

func (r rule) identity() identity { return identity{r.in, r.out, r.target, r.comment, r.plain} }

const forward = "FORWARD"

// tells reports whether a chain's rules can name an engine's bridges: FORWARD, and
// those that an engine alone writes. DOCKER is not among them: it holds a rule for
// every published port, and names no bridge that the others do not.
func tells(chain string) bool {
	switch chain {
	case forward, "DOCKER-FORWARD", "DOCKER-BRIDGE", "DOCKER-CT", "DOCKER-INTERNAL",
		"DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2":
		return true
	}
	return false
}

// shields reports whether a chain is that of an engine from 28 on, which drops in
// the raw table what comes for a container's address from another interface than its
// bridge (filterDirectAccess in daemon/libnetwork/drivers/bridge/internal/iptabler of
// github.com/moby/moby), unless it was told not to.
func shields(chain string) bool { return chain == "DOCKER-FORWARD" }

// bridges adds to names the bridges that the rules of a chain name. FORWARD is
// everybody's, so there only a jump into a chain that an engine alone writes tells.
// An administrator may well jump into DOCKER-USER for what enters by eth0.
func bridges(names []string, chain string, rules []rule) []string {
	for _, r := range rules {
		if chain == forward && r.target != "DOCKER" && !tells(r.target) {
			continue
		}
		for _, name := range []string{r.in, r.out} {
			if name != "" && name != "lo" {
				names = append(names, name)
			}
		}
	}
	return names
}

// engine reports whether the rule jumps into a chain of an engine, or into one
// that an administrator has under an engine's name.
func (r rule) engine() bool { return r.target == "DOCKER" || strings.HasPrefix(r.target, "DOCKER-") }

// ufw reports whether the rule jumps into a chain of ufw's.
func (r rule) ufw() bool {
	return strings.HasPrefix(r.target, "ufw-") || strings.HasPrefix(r.target, "ufw6-")
}

// bare reports whether the rule applies to every packet.
func (r rule) bare() bool { return r.plain && r.in == "" && r.out == "" }

// total reports whether the rule decides on every packet, so that none is left to the
// rules behind it.
func (r rule) total() bool {
	return r.bare() && (r.drains || r.target == "ACCEPT" || r.target == "DROP" || r.target == "REJECT")
}

// follow finds out where FORWARD's rules lead that send every packet to a chain which
// is no engine's, and none of ufw's. Each chain is read once, however many lead to it.
func follow(forward []rule, rulesOf func(chain string) []rule) {
	d := drain{rulesOf: rulesOf, known: map[string]bool{}}
	for i, r := range forward {
		forward[i].drains = r.bare() && !r.total() && !r.engine() && !r.ufw() && d.drops(r.target, deepest)
	}
}

// drain remembers which chains drop all that they do not decide on in particular.
type drain struct {
	rulesOf func(chain string) []rule
	known   map[string]bool
}

func (d drain) drops(chain string, depth int) bool {
	drops, ok := d.known[chain]
	if !ok && depth > 0 {
		d.known[chain] = false // one that leads back to itself, which no kernel has
		drops = d.judge(d.rulesOf(chain), depth-1)
		d.known[chain] = drops
	}
	return drops
}

func (d drain) judge(rules []rule, depth int) bool {
	for _, r := range rules {
		switch {
		case !r.bare():
		case r.target == "DROP" || r.target == "REJECT":
			return true
		case r.target == "ACCEPT" || r.target == "RETURN":
			return false
		case d.drops(r.target, depth):
			return true
		}
	}
	return false
}

// dropsRest reports whether FORWARD drops what no rule decides on in particular: by its
// policy, unless a rule decides on everything first.
func dropsRest(policy bool, rules []rule) bool {
	if i := slices.IndexFunc(rules, rule.total); i >= 0 {
		return rules[i].target != "ACCEPT"
	}
	return policy
}

// listing is the text of iptables -S.
type listing struct {
	policy string              // FORWARD's, e.g. DROP
	rules  map[string][]string // of each chain, as text
}

func parse(text string) listing {
	l := listing{rules: map[string][]string{}}
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		chain, rest, _ := strings.Cut(rest, " ")
		switch {
		case kind == "-P" && chain == forward:
			l.policy = rest
		case kind == "-A":
			l.rules[chain] = append(l.rules[chain], rest)
		}
	}
	return l
}

// of are the rules of a chain.
func (l listing) of(chain string) []rule {
	rules := make([]rule, len(l.rules[chain]))
	for i, text := range l.rules[chain] {
		rules[i] = parseRule(words(text))
	}
	return rules
}

func parseRule(args []string) rule {
	r := rule{plain: true, args: args}
	for i := 0; i < len(args); i++ {
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		exact := !strings.HasSuffix(value, "+") && (i == 0 || args[i-1] != "!")
		switch {
		case args[i] == "-i" && exact:
			r.in = value
		case args[i] == "-o" && exact:
			r.out = value
		case args[i] == "-j" || args[i] == "-g":
			r.target = value
		case args[i] == "-m" && value == "comment":
		case args[i] == "--comment":
			r.comment = value
		case args[i] == "--reject-with":
		default:
			r.plain = false
			continue
		}
		i++
	}
	return r
}

// words takes a line apart as a shell would: iptables -S puts quotes around what
// has spaces, and a backslash ahead of a quote or backslash in it.
func words(line string) []string {
	var all []string
	var word strings.Builder
	begun, quoted, escaped := false, false, false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\':
			begun, escaped = true, true
		case c == '"':
			begun, quoted = true, !quoted
		case c == ' ' && !quoted:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			begun = true
			word.WriteRune(c)
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}
