package iptables

import (
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// step is one change of a chain.
type step struct {
	at   place
	verb string // -N and -X make and delete the chain, -F empties it; -A, -I and -D a rule
	// index is where a rule goes with -I, counted from 1.
	index int
	// rule is the one of ours that comes or goes. Its tag is empty if what goes is none.
	rule rule
	// which is the rule that goes if it was found there and not remembered: its number,
	// or all of it as iptables prints it.
	which string
	got   string // as iptables prints it
}

// comes reports whether the step adds a rule.
func (s step) comes() bool { return s.verb == "-A" || s.verb == "-I" }

// drops reports whether the step adds what the drops of all networks stand on.
func (s step) drops() bool {
	return (s.comes() || s.verb == "-N") && s.rule.owner == (plan.Owner{}) && s.at.table != "nat"
}

// add is how the nth rule of a chain comes, counted from 0, if the last that is there
// already is another: at the end, or at its place.
func add(at place, n, last int, r rule) step {
	if n > last {
		return step{at: at, verb: "-A", rule: r}
	}
	return step{at: at, verb: "-I", index: n + 1, rule: r}
}

// line is the step for iptables-restore.
func (s step) line() string {
	words := []string{s.verb, s.at.chain}
	if s.verb == "-I" {
		words = append(words, strconv.Itoa(s.index))
	}
	switch {
	case s.which != "":
		words = append(words, s.which)
	case s.rule.tag != "":
		for _, arg := range s.rule.args() {
			words = append(words, quote(arg))
		}
	}
	return strings.Join(words, " ")
}

// difference is what leads from one ruleset to another. Both are in order, so what is
// in both keeps its place.
func difference(have, want ruleset) []step {
	var gone, come []step
	for _, family := range []int{4, 6} {
		for _, at := range want.places(family) {
			had, wanted := marks(have[at]), marks(want[at])
			for _, r := range have[at] {
				if !wanted[r.mark()] {
					gone = append(gone, step{at: at, verb: "-D", rule: r})
				}
			}
			last := -1
			for i, r := range want[at] {
				if had[r.mark()] {
					last = i
				}
			}
			for i, r := range want[at] {
				if !had[r.mark()] {
					come = append(come, add(at, i, last, r))
				}
			}
		}
	}
	return append(gone, come...)
}

func marks(rules []rule) map[string]bool {
	all := map[string]bool{}
	for _, r := range rules {
		all[r.mark()] = true
	}
	return all
}

// steps is what leads from what stands to what is wanted in one family.
func (s standing) steps(want ruleset, family int) []step {
	var made, changed, emptied, deleted []step
	for _, at := range want.places(family) {
		if _, there := s[at]; !there && at.ours() {
			made = append(made, step{at: at, verb: "-N"})
		}
		if at.ours() {
			changed = append(changed, settle(at, s[at], want[at])...)
		} else {
			changed = append(changed, hook(at, s[at], want[at])...)
		}
	}
	for _, at := range s.places() {
		switch _, wanted := want[at]; {
		case wanted:
		case at.ours():
			emptied = append(emptied, step{at: at, verb: "-F"})
			deleted = append(deleted, step{at: at, verb: "-X"})
		default:
			changed = append(changed, hook(at, s[at], nil)...)
		}
	}
	return slices.Concat(made, changed, emptied, deleted)
}

// settle makes a chain of ours what it should be: all that is not ours goes, all that
// is missing comes, and what stands behind a rule that it should stand ahead of moves.
func settle(at place, got []string, want []rule) []step {
	index := map[string]int{}
	for i, r := range want {
		index[r.mark()] = i
	}
	var gone, come []step
	kept, last := map[int]bool{}, -1
	for i, text := range got {
		mark, _ := readBack(text)
		n, wanted := index[mark]
		if wanted && n > last {
			kept[n], last = true, n
			continue
		}
		s := step{at: at, verb: "-D", which: strconv.Itoa(i + 1), got: text}
		if wanted {
			s.rule = want[n]
		}
		gone = append(gone, s)
	}
	slices.Reverse(gone) // so that numbers stay true
	for i, r := range want {
		if !kept[i] {
			come = append(come, add(at, i, last, r))
		}
	}
	return append(gone, come...)
}

// hook makes the one rule of ours in a chain of others what it should be. Somebody
// else may write there too, so what goes is named in full and not by number; that
// means the first copy, which may be the right one, and hence all go.
func hook(at place, got []string, want []rule) []step {
	var steps []step
	right := 0
	for i, text := range got {
		mark, ours := readBack(text)
		if !ours {
			continue
		}
		steps = append(steps, step{at: at, verb: "-D", which: text, got: text})
		if len(want) > 0 && mark == want[0].mark() && (i == 0 || want[0].rank == anywhere) {
			right++
		}
	}
	if right == len(want) && len(steps) == len(want) {
		return nil
	}
	for _, r := range want {
		steps = append(steps, step{at: at, verb: "-I", index: 1, rule: r})
	}
	return steps
}

// object is e.g. iptables-nft mangle DRAWBRIDGE-IN.
func (f *Firewall) object(at place) string {
	return f.command(at.family) + " " + at.table + " " + at.chain
}

// drift says the steps to a person. Of a chain that is missing as a whole the rules
// are not listed.
func (f *Firewall) drift(steps []step) []plan.Drift {
	var all []plan.Drift
	missing := map[place]bool{}
	for _, s := range steps {
		d := plan.Drift{Owner: s.rule.owner, Object: f.object(s.at), Field: "rule"}
		switch s.verb {
		case "-N":
			missing[s.at] = true
			d.Field, d.Want = "chain", "present"
		case "-X":
			d.Field, d.Got = "chain", "present"
		case "-A", "-I":
			d.Want = s.rule.text
		case "-D":
			d.Got = s.got
			if s.rule.tag != "" {
				d.Got = s.rule.text + " in another place"
			}
		}
		if s.verb != "-F" && (s.verb == "-N" || !missing[s.at]) {
			all = append(all, d)
		}
	}
	return all
}
