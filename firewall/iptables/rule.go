package iptables

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// place is a chain.
type place struct {
	family int    // 4 or 6
	table  string // e.g. mangle
	chain  string // e.g. DRAWBRIDGE-IN
}

// chainPrefix begins the names of our chains.
const chainPrefix = "DRAWBRIDGE-"

// ours reports whether the chain is one of ours, and not one that others made.
func (p place) ours() bool { return IsOurs(p.chain) }

// IsOurs reports whether a chain is ours, by its name. None of our rules stands without
// one: in chains of others we have only jumps.
func IsOurs(chain string) bool { return strings.HasPrefix(chain, chainPrefix) }

// tables are those that we use, in the order in which packets meet them.
func tables() []string { return []string{"raw", "mangle", "nat"} }

// rule is one rule of ours.
type rule struct {
	// rank is its place among the rules of its chain. The order of those with the same
	// rank does not matter, and is that of their text.
	rank   int
	match  []string // e.g. -o dbr3f2a9c0d11ee
	action []string // e.g. -j DROP
	why    string   // e.g. not published
	owner  plan.Owner
	needs  feature // "" for what every iptables has
	// text is match and action.
	text string
	// tag is made of all this but rank and owner, so that we know the rule again
	// however iptables prints it. It stands in its comment.
	tag string
}

// target is e.g. DROP, or the chain that the rule leads to.
func (r rule) target() string { return r.action[1] }

// args is the rule as the command takes it.
func (r rule) args() []string {
	comment := fmt.Sprintf("%s%s: %s", plan.MarkPrefix, r.tag, r.why)
	return slices.Concat(r.match, []string{"-m", "comment", "--comment", comment}, r.action)
}

// mark is what a rule of ours is known by when it is read back. An accept where a drop
// was is not the same, even under its comment.
func (r rule) mark() string { return r.tag + " " + r.target() }

var (
	tagged  = regexp.MustCompile(plan.MarkPrefix + `([0-9a-f]{12}): `)
	targets = regexp.MustCompile(`(?:^| )-[jg] (\S+)`)
)

// readBack is the mark of a rule as iptables prints it, and whether it is ours at all:
// by its comment, or since it leads to a chain of ours.
func readBack(text string) (mark string, ours bool) {
	tag, target := "", ""
	if found := tagged.FindStringSubmatch(text); found != nil {
		tag = found[1]
	}
	if found := targets.FindStringSubmatch(text); found != nil {
		target = found[1]
	}
	return tag + " " + target, tag != "" || strings.HasPrefix(target, chainPrefix)
}

// ruleset are the rules of ours in each chain, a jump at most in one of others.
type ruleset map[place][]rule

// add adds a rule with everything but its text and its tag.
func (s ruleset) add(at place, r rule) {
	if r.why == "" || len(r.action) < 2 {
		panic("iptables: a rule without a reason or an action in " + at.chain)
	}
	r.text = strings.Join(slices.Concat(r.match, r.action), " ")
	sum := sha256.Sum256([]byte(strings.Join([]string{at.table, at.chain, r.text, r.why}, "\n")))
	r.tag = hex.EncodeToString(sum[:6])
	s[at] = append(s[at], r)
}

// sort puts every chain into order. A rule that two want is one rule.
func (s ruleset) sort() {
	for at, rules := range s {
		slices.SortStableFunc(rules, func(a, b rule) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.text, b.text))
		})
		s[at] = slices.CompactFunc(rules, func(a, b rule) bool { return a.tag == b.tag })
	}
}

// places are the chains of a family in fixed order: table by table, those that others
// made first.
func (s ruleset) places(family int) []place {
	var all []place
	for at := range s {
		if at.family == family {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, comparePlaces)
	return all
}

func comparePlaces(a, b place) int {
	ours := map[bool]int{true: 1}
	return cmp.Or(
		cmp.Compare(a.family, b.family),
		cmp.Compare(slices.Index(tables(), a.table), slices.Index(tables(), b.table)),
		cmp.Compare(ours[a.ours()], ours[b.ours()]),
		strings.Compare(a.chain, b.chain))
}

// quote is a word as iptables-restore takes it apart again.
func quote(word string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:/[]!,", c)
	}
	if word != "" && strings.IndexFunc(word, func(c rune) bool { return !plain(c) }) < 0 {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}
