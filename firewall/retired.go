package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/firewall/iptables"
	"github.com/drawbridge-net/drawbridge/firewall/nftables"
	"github.com/drawbridge-net/drawbridge/plan"
)

// Retired is the layer that takes away what a firewall has left that was chosen before.
// It belongs behind all that the chosen one needs, that of links included, and waits for
// it (see Behind): so there is no moment at which neither holds.
type Retired struct{ Firewall *Firewall }

// Apply looks for left-overs if nobody remembers that there are none.
func (r Retired) Apply(ctx context.Context, have, _ *plan.Plan) error {
	if have != nil {
		return nil
	}
	return r.Firewall.removeUnchosen(ctx)
}

// Check reports left-overs. It does not look again where it found none and nothing has
// been written since.
func (r Retired) Check(ctx context.Context, _ *plan.Plan) ([]plan.Drift, error) {
	var found []plan.Drift
	var failed []error
	for _, name := range r.Firewall.unchosen() {
		left, err := r.Firewall.checkLeft(ctx, name)
		found = append(found, left...)
		if missing := (*plan.ObjectError)(nil); errors.As(err, &missing) {
			found = append(found, plan.Drift{Object: missing.Object, Field: "rules", Got: missing.Err.Error()})
		} else {
			failed = append(failed, err)
		}
	}
	return found, errors.Join(failed...)
}

// Remove takes away what was not chosen. Where nothing was, it goes in the place of what
// might have been, behind the links that it guards.
func (r Retired) Remove(ctx context.Context) error {
	if r.Firewall.Absent() {
		return nil
	}
	return r.Firewall.removeUnchosen(ctx)
}

// unchosen are the names of the firewalls that may have left something, and that we
// could have made on this kernel.
func (f *Firewall) unchosen() []string {
	return slices.DeleteFunc([]string{"iptables-" + iptables.NFT, "iptables-" + iptables.Legacy, string(NFTables)}, func(name string) bool {
		return name == f.Name || f.nft == nil && name != "iptables-"+iptables.Legacy
	})
}

func (f *Firewall) removeUnchosen(ctx context.Context) error {
	var failed []error
	for _, name := range f.unchosen() {
		b, left, err := f.left(ctx, name)
		if err == nil && len(left) > 0 {
			err = b.Remove(ctx)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// checkLeft is left, unless there was nothing and nothing was written since.
func (f *Firewall) checkLeft(ctx context.Context, name string) ([]plan.Drift, error) {
	now, err := f.edition(ctx, name)
	if err != nil || now == f.clean(name) {
		return nil, err
	}
	_, left, err := f.left(ctx, name)
	if err == nil && len(left) == 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.editions[name] = now
	}
	return left, err
}

// clean is the edition in which nothing was left.
func (f *Firewall) clean(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.editions[name]
}

// legacyEdition is how long legacy iptables, which counts no changes and is read by a
// process, is taken for unchanged.
const legacyEdition = 5 * time.Second

// edition is another whenever rules may be others than before.
func (f *Firewall) edition(ctx context.Context, name string) (string, error) {
	if name == "iptables-"+iptables.Legacy {
		return fmt.Sprint(int64(time.Since(f.began) / legacyEdition)), nil
	}
	id, err := f.nft.Generation(ctx)
	return fmt.Sprint(id), err
}

// left is what stands of a firewall that was not chosen, and who can take it away. On
// most hosts that is told without a process.
func (f *Firewall) left(ctx context.Context, name string) (backend, []plan.Drift, error) {
	b, err := f.retired(ctx, name)
	if b == nil || err != nil {
		return nil, nil, err
	}
	left, err := b.Left(ctx)
	return b, left, err
}

// retired is a firewall that was not chosen, nil if there can be no rules of ours in it.
func (f *Firewall) retired(ctx context.Context, name string) (backend, error) {
	var there bool
	var err error
	switch name {
	case string(NFTables):
		return f.nft, nil
	case "iptables-" + iptables.Legacy:
		there, err = iptables.HasLegacy()
	default:
		var chains []string
		chains, err = f.nft.Chains(ctx)
		there = slices.ContainsFunc(chains, iptables.IsOurs)
	}
	if err != nil || !there {
		return nil, err
	}
	return f.command(strings.TrimPrefix(name, "iptables-"))
}

// command finds the commands of a kind once.
func (f *Firewall) command(kind string) (backend, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found := f.others[kind]; found != nil {
		return found, nil
	}
	found, err := iptables.New(kind)
	if kind == iptables.Legacy && errors.Is(err, exec.ErrNotFound) {
		return nil, nil // they are somebody else's: without a command we made none
	}
	if err != nil {
		return nil, &plan.ObjectError{Object: "iptables-" + kind, Err: fmt.Errorf("rules of ours may be left: %w", err)}
	}
	f.others[kind] = found
	return found, nil
}

var (
	_ backend = (*nftables.Firewall)(nil)
	_ backend = (*iptables.Firewall)(nil)
)
