package foreign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Withdraw is the layer that takes away our accepts that are not planned. It
// belongs ahead of the layer of our own firewall, whose drops must outlive them.
type Withdraw struct{ Rules *Rules }

// Insert is the layer that adds the accepts that are planned. It belongs behind
// the layer of our own firewall, whose drops must stand before them.
type Insert struct{ Rules *Rules }

// chooser finds the changes of a chain after which it is as wanted.
type chooser func(rules []rule, wanted []accept) []step

// Apply takes away what is not planned.
func (l Withdraw) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have != nil && !shrinks(have, want) {
		return nil
	}
	return l.Rules.apply(ctx, want, stray)
}

// Check finds nothing: Insert's, which reads the same rules, does.
func (l Withdraw) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove does nothing: Insert's, which goes first, has taken away every accept.
func (l Withdraw) Remove(context.Context) error { return nil }

// Apply adds what is missing and moves what stands in the wrong place.
func (l Insert) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have == nil || resettles(have, want) {
		l.Rules.sentry.ask(want)
	}
	if have != nil && !shrinks(want, have) {
		return nil
	}
	return l.Rules.apply(ctx, want, place)
}

// Check reports accepts that are not planned, that are missing or that stand in the
// wrong place.
func (l Insert) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	filters, err := read(ctx)
	var all []plan.Drift
	for _, f := range filters {
		all = append(all, f.check(wanted(want, f))...)
	}
	l.Rules.sentry.ask(want)
	return all, err
}

// resettles reports whether there is a network more or less.
func resettles(have, want *plan.Plan) bool {
	for d := range tree.Diff(have.Networks, want.Networks) {
		if d.Old == nil || d.New == nil {
			return true
		}
	}
	return false
}

// Remove takes every rule with our mark out of every FORWARD chain.
func (l Insert) Remove(ctx context.Context) error {
	return l.Rules.apply(ctx, &plan.Plan{Host: &plan.Host{}}, stray)
}

// shrinks reports whether from has accepts that to lacks. So a request that
// touches no bridge costs no look.
func shrinks(from, to *plan.Plan) bool {
	for _, c := range from.Host.Drops {
		if from.Networks.Len() > 0 && !slices.Contains(to.Host.Drops, c) {
			return true
		}
		for d := range tree.Diff(from.Networks, to.Networks) {
			if !slices.Equal(accepts(d.Old, c), accepts(d.New, c)) && d.Old != nil {
				return true
			}
		}
	}
	return false
}

// wanted are the accepts that a plan has in a filter table's FORWARD. If that is
// gone or no longer drops what it does not know, nothing needs to be let through it, and
// without drops of our own nothing may be.
func wanted(p *plan.Plan, f filter) []accept {
	var all []accept
	if !f.drops || !slices.Contains(p.Host.Drops, f.Chain) || p.Host.NoFirewall {
		return nil
	}
	for _, n := range p.Networks.All() {
		all = append(all, accepts(n, f.Chain)...)
	}
	return all
}

func (r *Rules) apply(ctx context.Context, want *plan.Plan, choose chooser) error {
	filters, err := read(ctx)
	failed := []error{err}
	for _, f := range filters {
		wanted := wanted(want, f)
		if steps := choose(f.forward, wanted); len(steps) > 0 {
			failed = append(failed, r.mend(ctx, f.Chain, steps, func(rules []rule) []step { return choose(rules, wanted) }))
		}
	}
	return errors.Join(failed...)
}

// object is e.g. iptables-nft FORWARD -i dbr3f2a9c0d11ee -j ACCEPT.
func object(c plan.Chain, r rule) string {
	words := []string{command(c), forward}
	if r.in != "" {
		words = append(words, "-i", r.in)
	}
	if r.out != "" {
		words = append(words, "-o", r.out)
	}
	return strings.Join(append(words, "-j", r.target), " ")
}

// check names every rule that has to be changed, once.
func (f filter) check(wanted []accept) []plan.Drift {
	var all []plan.Drift
	if f.hidden != nil {
		all = append(all, plan.Drift{Object: command(f.Chain), Field: "rules", Want: "readable", Got: f.hidden.Error()})
	}
	found := locate(f.forward)
	for _, s := range append(stray(f.forward, wanted), place(f.forward, wanted)...) {
		all = append(all, drift(f.Chain, s, found[s.rule.identity()]))
	}
	return slices.Compact(all)
}

func drift(c plan.Chain, s step, found copies) plan.Drift {
	d := plan.Drift{Owner: plan.Owner{Network: s.network}, Object: object(c, s.rule), Field: "rule"}
	if s.network == "" {
		d.Got = fmt.Sprintf("one marked %q", s.rule.comment)
		return d
	}
	d.Want = "one behind the engine's jumps, ahead of ufw's and of a rule that drops all"
	if found != (copies{}) {
		d.Got = fmt.Sprintf("%d there, %d ahead, %d behind", found.within, found.ahead, found.behind)
	}
	return d
}
