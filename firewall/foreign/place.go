package foreign

import (
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// accept is one rule of ours: what enters (-i) or leaves (-o) by a bridge passes.
type accept struct {
	direction string // -i or -o
	bridge    string // e.g. dbr3f2a9c0d11ee
	network   spec.ID
}

func (a accept) args() []string {
	return []string{a.direction, a.bridge, "-m", "comment", "--comment", plan.NetworkMark(a.network), "-j", "ACCEPT"}
}

// String is the rule as a person would write it.
func (a accept) String() string { return a.direction + " " + a.bridge + " -j ACCEPT" }

// rule is what reading the accept back gives.
func (a accept) rule() rule {
	r := rule{target: "ACCEPT", comment: plan.NetworkMark(a.network), plain: true, args: a.args()}
	if a.direction == "-i" {
		r.in = a.bridge
	} else {
		r.out = a.bridge
	}
	return r
}

// accepts are the rules that a network needs in a chain.
func accepts(n *plan.Network, c plan.Chain) []accept {
	if n == nil || !n.Accepted(c) {
		return nil
	}
	return []accept{{"-i", n.Bridge.Name, n.ID}, {"-o", n.Bridge.Name, n.ID}}
}

// step is one change of FORWARD: the rule is inserted ahead of that which stands
// at index at, or, if that is below zero, its first copy is deleted.
type step struct {
	rule    rule
	at      int
	network spec.ID // for which it is done; "" for nobody's
}

const gone = -1

// window is where our accepts may stand: behind the engine's last jump, so that
// DOCKER-USER and Docker's isolation judge first, and ahead of ufw's chains, which
// end in a reject, and of the first rule that leaves nothing to those behind it. One
// that somebody puts ahead of the engine's jumps is meant for everybody's containers
// and stays ahead of ours too.
func window(rules []rule) (from, to int) {
	for i, r := range rules {
		if r.engine() {
			from = i + 1
		}
	}
	for i, r := range rules[from:] {
		if r.ufw() || r.total() {
			return from, from + i
		}
	}
	return from, len(rules)
}

// spot is where a new accept goes: as late as may be. So whatever an administrator, or
// the keeper of other bridges, has decided ahead of it holds for ours too.
func spot(rules []rule) int {
	_, to := window(rules)
	return to
}

// stray finds the changes after which no rule with our mark stands that is not wanted.
func stray(rules []rule, wanted []accept) []step {
	want := map[identity]bool{}
	for _, a := range wanted {
		want[a.rule().identity()] = true
	}
	var steps []step
	for _, r := range rules {
		if r.ours() && !want[r.identity()] {
			steps = append(steps, step{rule: r, at: gone})
		}
	}
	return steps
}

// place finds the changes after which every wanted accept stands once, and in the
// window.
func place(rules []rule, wanted []accept) []step {
	var steps []step
	found := locate(rules)
	for _, a := range wanted {
		for _, s := range settle(a, found[a.rule().identity()]) {
			if s.at != gone {
				s.at = spot(rules)
			}
			rules = s.do(rules)
			steps = append(steps, s)
		}
	}
	return steps
}

// copies counts one rule's copies by where they stand.
type copies struct{ ahead, within, behind int }

func locate(rules []rule) map[identity]copies {
	from, to := window(rules)
	found := map[identity]copies{}
	for i, r := range rules {
		if !r.ours() {
			continue
		}
		c := found[r.identity()]
		switch {
		case i < from:
			c.ahead++
		case i < to:
			c.within++
		default:
			c.behind++
		}
		found[r.identity()] = c
	}
	return found
}

// settle brings one accept into the window. It is added before its other copies
// go. Only for a copy behind the window it is the other way round, since deleting
// meets the first copy; but what stands behind ufw's chains lets little through.
func settle(a accept, c copies) []step {
	add, del := step{rule: a.rule(), network: a.network}, step{rule: a.rule(), at: gone, network: a.network}
	all := c.ahead + c.within + c.behind
	switch {
	case c.behind > 0:
		return append(slices.Repeat([]step{del}, all), add)
	case c.within == 0:
		return append([]step{add}, slices.Repeat([]step{del}, all)...)
	default:
		return slices.Repeat([]step{del}, all-1)
	}
}

// do is what FORWARD is after the step.
func (s step) do(rules []rule) []rule {
	if s.at != gone {
		return slices.Insert(slices.Clone(rules), s.at, s.rule)
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return r.identity() == s.rule.identity() })
	return slices.Delete(slices.Clone(rules), i, i+1)
}
