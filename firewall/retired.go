package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/drawbridge-net/drawbridge/firewall/iptables"
	"github.com/drawbridge-net/drawbridge/firewall/nftables"
	"github.com/drawbridge-net/drawbridge/plan"
)

// Retired is the layer that takes away what a firewall has left that was chosen before.
// It belongs behind all that the chosen one needs, that of links included: so there is
// no moment at which neither holds.
type Retired struct{ Firewall *Firewall }

// Apply looks for left-overs if nobody remembers that there are none.
func (r Retired) Apply(ctx context.Context, have, _ *plan.Plan) error {
	if have != nil {
		return nil
	}
	return r.Remove(ctx)
}

// Check reports left-overs.
func (r Retired) Check(ctx context.Context, _ *plan.Plan) ([]plan.Drift, error) {
	all, err := r.all(ctx)
	var found []plan.Drift
	if missing := (*plan.ObjectError)(nil); errors.As(err, &missing) {
		found = append(found, plan.Drift{Object: missing.Object, Field: "rules", Got: missing.Err.Error()})
	} else if err != nil {
		return nil, err
	}
	for _, b := range all {
		left, err := b.Left(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, left...)
	}
	return found, nil
}

// Remove takes away what was not chosen.
func (r Retired) Remove(ctx context.Context) error {
	all, err := r.all(ctx)
	failed := []error{err}
	for _, b := range all {
		left, err := b.Left(ctx)
		if err == nil && len(left) > 0 {
			err = b.Remove(ctx)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// all are those that were not chosen and may have left something. On most hosts that is
// told without a process.
func (r Retired) all(ctx context.Context) ([]backend, error) {
	f := r.Firewall
	var all []backend
	var failed []error
	for _, kind := range []string{iptables.NFT, iptables.Legacy} {
		if f.ipt != nil && f.ipt.Kind() == kind {
			continue
		}
		there, err := f.mayHave(ctx, kind)
		if err == nil && there {
			var b backend
			if b, err = f.retired(kind); b != nil {
				all = append(all, b)
			}
		}
		failed = append(failed, err)
	}
	if f.ipt != nil && f.nft != nil {
		all = append(all, f.nft)
	}
	return all, errors.Join(failed...)
}

// mayHave reports whether there can be rules of ours in a kind of iptables.
func (f *Firewall) mayHave(ctx context.Context, kind string) (bool, error) {
	if kind == iptables.Legacy {
		return iptables.HasLegacy()
	}
	if f.nft == nil {
		return false, nil
	}
	chains, err := f.nft.Chains(ctx)
	return slices.ContainsFunc(chains, iptables.IsOurs), err
}

// retired finds the commands of a kind once.
func (f *Firewall) retired(kind string) (backend, error) {
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
