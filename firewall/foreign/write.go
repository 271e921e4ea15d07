package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
)

// mendAttempts bounds how often a chain is read again because others write it too:
// a place that is right when it is read may be another when it is written.
const mendAttempts = 3

// mend changes a chain until next finds nothing more to change. steps are what it
// has found so far.
func (r *Rules) mend(ctx context.Context, c plan.Chain, steps []step, next func([]rule) []step) error {
	if c.Kind == kindNFT {
		return mendNFT(c, steps, next)
	}
	return r.mendLegacy(ctx, c, steps, next)
}

// mendNFT writes over netlink, as nftables' side is read. So no command need be
// there, and one that does not understand what a newer one has put into the table
// cannot stand in the way.
func mendNFT(c plan.Chain, steps []step, next func([]rule) []step) (failed error) {
	conn, err := newReader()
	if err != nil {
		return blame(c, steps, err)
	}
	defer func() { failed = errors.Join(failed, conn.CloseLasting()) }()
	// Of a transaction that failed, answers may stay in its socket: it has one of its own.
	writer, err := nftables.New()
	if err != nil {
		return blame(c, steps, err)
	}
	for range mendAttempts {
		rules, err := conn.forward(forwardOf(c))
		if err != nil {
			return blame(c, steps, err)
		}
		if steps = next(rules); len(steps) == 0 {
			return nil
		}
		if failed = writeNFT(writer, forwardOf(c), rules, steps); failed != nil {
			failed = blame(c, steps, failed)
		}
	}
	return failed
}

func (r *Rules) mendLegacy(ctx context.Context, c plan.Chain, steps []step, next func([]rule) []step) error {
	tool, err := r.tool(c)
	if err != nil {
		return blame(c, steps, err)
	}
	var failed error
	for range mendAttempts {
		text, err := list(ctx, c)
		if err != nil {
			return blame(c, steps, err)
		}
		if steps = next(newFilter(c, text).forward); len(steps) == 0 {
			return nil
		}
		failed = write(ctx, tool, c, steps)
		r.wrote.Store(true)
	}
	return failed
}

// few is how many rules are as well written one by one, each by its own process.
const few = 4

func write(ctx context.Context, tool *iptables.IPTables, c plan.Chain, steps []step) error {
	if len(steps) > few && restore(ctx, c, steps) == nil {
		return nil
	}
	// Also if all at once failed, which tells nothing of which one it was, and has
	// changed nothing.
	var failed []error
	for _, s := range steps {
		if err := do(tool, s); err != nil {
			failed = append(failed, blame(c, []step{s}, err))
		}
	}
	return errors.Join(failed...)
}

func do(tool *iptables.IPTables, s step) error {
	if s.at != gone {
		return tool.Insert("filter", forward, s.at+1, s.rule.args...)
	}
	return tool.Delete("filter", forward, s.rule.args...)
}

// restore makes all steps, or none, at once.
func restore(ctx context.Context, c plan.Chain, steps []step) error {
	var script bytes.Buffer
	script.WriteString("*filter\n")
	for _, s := range steps {
		if s.at != gone {
			fmt.Fprintf(&script, "-I %s %d", forward, s.at+1)
		} else {
			fmt.Fprintf(&script, "-D %s", forward)
		}
		for _, word := range s.rule.args {
			script.WriteString(" " + quote(word))
		}
		script.WriteString("\n")
	}
	script.WriteString("COMMIT\n")
	if err := failpoint.Step("FORWARD", "write"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, command(c)+"-restore", "--noflush", "--wait", strconv.Itoa(lockWait))
	cmd.Stdin = &script
	return cmd.Run()
}

// quote is what words takes apart again.
func quote(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}

// blame is the error of steps that could not be made.
func blame(c plan.Chain, steps []step, err error) error {
	var all []error
	for _, s := range steps {
		all = append(all, &plan.ObjectError{Owner: plan.Owner{Network: s.network}, Object: object(c, s.rule), Err: err})
	}
	return errors.Join(all...)
}
