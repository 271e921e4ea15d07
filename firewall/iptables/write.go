package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
)

// write makes all steps, in one transaction for each family and table.
func (f *Firewall) write(ctx context.Context, steps []step) error {
	for _, family := range []int{4, 6} {
		some := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.at.family != family })
		var err error
		switch len(some) {
		case 0:
		case 1:
			err = f.do(ctx, some[0])
		default:
			err = f.restore(ctx, some)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// do makes one step.
func (f *Firewall) do(ctx context.Context, s step) error {
	tool := f.tools[s.at.family]
	switch {
	case s.verb == "-A":
		return tool.Append(s.at.table, s.at.chain, s.rule.args()...)
	case s.verb == "-I":
		return tool.Insert(s.at.table, s.at.chain, s.index, s.rule.args()...)
	case s.which == "" && s.verb == "-D":
		return tool.Delete(s.at.table, s.at.chain, s.rule.args()...)
	}
	return f.restore(ctx, []step{s})
}

// restore makes all steps of one family. Drops come before what they guard and go
// after it: the tables are written in the order in which packets meet them, and the
// other way round if nothing comes.
func (f *Firewall) restore(ctx context.Context, steps []step) error {
	order := tables()
	if !slices.ContainsFunc(steps, step.comes) {
		slices.Reverse(order)
	}
	var script, stderr bytes.Buffer
	for _, table := range order {
		some := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.at.table != table })
		if len(some) == 0 {
			continue
		}
		fmt.Fprintf(&script, "*%s\n", table)
		for _, s := range some {
			fmt.Fprintln(&script, s.line())
		}
		script.WriteString("COMMIT\n")
	}
	if err := failpoint.Step("iptables", "write"); err != nil {
		return err
	}
	name := f.command(steps[0].at.family) + "-restore"
	cmd := exec.CommandContext(ctx, name, "--noflush", "--wait", strconv.Itoa(lockWait))
	cmd.Stdin, cmd.Stderr = &script, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// piecemeal makes one step after the other and blames each failure on its owner; for one
// of what all drops stand on nobody may be let in. What comes behind a rule that could
// not be made stands one place further ahead. Rules that need a feature which is lacking
// are nobody's failure.
func (f *Firewall) piecemeal(ctx context.Context, steps []step) error {
	var failed []error
	absent := map[place]int{}
	for _, s := range steps {
		s.index -= absent[s.at]
		err := ctx.Err() // a single command does not ask
		if err == nil {
			err = f.do(ctx, s)
		}
		if err == nil {
			continue
		}
		if s.comes() {
			absent[s.at]++
		}
		if f.cannot(ctx, s, err) {
			lost := f.lacking().with(s.rule.needs)
			f.lacks.Store(&lost)
			continue // there is another rule for that
		}
		object := f.object(s.at)
		if s.comes() || s.verb == "-D" {
			object += " " + s.got + s.rule.text
		}
		if s.drops() {
			failed = append(failed, fmt.Errorf("%s: %w", object, err))
			continue
		}
		failed = append(failed, &plan.ObjectError{Owner: s.rule.owner, Object: object, Err: err})
	}
	return errors.Join(failed...)
}

// cannot reports whether a step failed for want of a feature, and not because somebody took
// its chain away or rules ahead of it: then the rule is refused in a chain of its own too.
func (f *Firewall) cannot(ctx context.Context, s step, failed error) bool {
	if !s.comes() || s.rule.needs == "" || !refuses(failed) {
		return false
	}
	trial := place{s.at.family, s.at.table, chainTrial}
	err := f.restore(ctx, []step{{at: trial, verb: "-N"}, {at: trial, verb: "-A", rule: s.rule}})
	if err != nil {
		return ctx.Err() == nil && !isTemporary(err)
	}
	_ = f.restore(ctx, []step{{at: trial, verb: "-F"}, {at: trial, verb: "-X"}}) // or the next look finds it
	return false
}
