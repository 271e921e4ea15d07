// Package iptables is the firewall on iptables, of either kind, for hosts that have
// no nf_tables: the same promises as firewall/nftables, kept by rules in chains of its
// own, which are all named DRAWBRIDGE-.
//
// It sets no policy, flushes nothing and accepts nothing: its drops stand in the raw
// and mangle tables, which judge before the filter table and where no accept of
// others undoes them. In chains of others it has one jump each. The number of its
// rules grows with networks, published and open ports; a contiguous range is one rule.
//
// It sees what passes from port to port of one bridge only where
// net.bridge.bridge-nf-call-iptables is 1. Where it is not (plan.Host.Unseen), it does not
// keep the containers of one network apart: that is left to the bridge's ports (package
// link).
package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/coreos/go-iptables/iptables"

	"github.com/drawbridge-net/drawbridge/plan"
)

// The two kinds of iptables that a kernel can have at once: rules in tables of
// nftables, and those of the older x_tables.
const (
	NFT    = "nft"
	Legacy = "legacy"
)

// lockWait is for how many seconds a command waits for the lock that all commands
// of legacy iptables share.
const lockWait = 10

// Firewall is the layer. Create it with New.
type Firewall struct {
	kind  string
	tools map[int]*iptables.IPTables // by family, 4 or 6
	// settled is for Watch; nil while an Apply is under way.
	settled atomic.Pointer[settled]
	// mends counts how often all rules were found or made as planned.
	mends atomic.Uint64
	lacks atomic.Pointer[lacks] // what was refused so far; nil for nothing
}

// New finds the commands of a kind, NFT or Legacy. It changes nothing.
func New(kind string) (*Firewall, error) {
	f := &Firewall{kind: kind, tools: map[int]*iptables.IPTables{}}
	for family, proto := range map[int]iptables.Protocol{4: iptables.ProtocolIPv4, 6: iptables.ProtocolIPv6} {
		t, err := iptables.New(iptables.IPFamily(proto), iptables.Path(f.command(family)), iptables.Timeout(lockWait))
		if err != nil {
			return nil, fmt.Errorf("%s does not run: install iptables 1.8 or newer: %w", f.command(family), err)
		}
		f.tools[family] = t
	}
	return f, nil
}

// Find is New for the kind that an engine uses on this host, so that all rules are in
// one place: that which has an engine's chains. As long as none has, such as when the host
// starts, or if both do, it is that of the bare command, which engines run.
func Find(ctx context.Context) (*Firewall, error) {
	var found, engines []*Firewall
	var failed []error
	for _, kind := range []string{NFT, Legacy} {
		f, err := New(kind)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		seen, err := f.look(ctx, 4)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		found = append(found, f)
		if _, engine := seen[place{4, "nat", "DOCKER"}]; engine {
			engines = append(engines, f)
		}
	}
	switch {
	case len(found) == 0:
		return nil, errors.Join(failed...)
	case len(engines) == 1:
		return engines[0], nil
	}
	bare := bareKind(ctx)
	if i := slices.IndexFunc(found, func(f *Firewall) bool { return f.kind == bare }); i >= 0 {
		return found[i], nil
	}
	return found[0], nil
}

// bareKind is that of the command without a kind in its name, empty if it tells none.
func bareKind(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "iptables", "--version").Output()
	switch version := string(out); {
	case strings.Contains(version, "(nf_tables)"):
		return NFT
	case strings.Contains(version, "(legacy)"):
		return Legacy
	}
	return ""
}

// Kind is NFT or Legacy.
func (f *Firewall) Kind() string { return f.kind }

// command is e.g. ip6tables-nft: never the bare name, which is either of the two.
func (f *Firewall) command(family int) string {
	if family == 6 {
		return "ip6tables-" + f.kind
	}
	return "iptables-" + f.kind
}

// Apply makes the rules match want, in one transaction for each family and table. If
// have is nil, it looks first.
func (f *Firewall) Apply(ctx context.Context, have, want *plan.Plan) error {
	f.settled.Store(nil)
	defer f.settled.Store(&settled{want})
	if have != nil {
		// An error does not mean that nothing happened. Who asked has it looked at then, here
		// and by those who must know that rules may have been gone.
		return f.write(ctx, difference(f.render(have), f.render(want)))
	}
	known := f.lacking()
	err := f.mend(ctx, f.render(want), families(want.Host))
	if now := f.lacking(); len(now) > len(known) {
		err = f.mend(ctx, f.render(want), families(want.Host))
	}
	if err == nil {
		f.mends.Add(1)
	}
	return err
}

// render is all that a plan wants of this kernel, by what is known of it.
func (f *Firewall) render(p *plan.Plan) ruleset { return f.lacking().render(p) }

func (f *Firewall) lacking() lacks {
	if l := f.lacks.Load(); l != nil {
		return *l
	}
	return nil
}

// Notices says what users should know of this kernel.
func (f *Firewall) Notices() []string {
	var all []string
	for _, lost := range f.lacking() {
		all = append(all, lost.notice())
	}
	return all
}

// mend looks at the rules and changes what differs. What fails all at once is done
// step by step, so that one bad rule harms nobody but its owner.
func (f *Firewall) mend(ctx context.Context, want ruleset, families []int) error {
	var failed []error
	for _, family := range families {
		steps, err := f.missing(ctx, want, family)
		if err == nil && f.write(ctx, steps) != nil {
			if steps, err = f.missing(ctx, want, family); err == nil {
				err = f.piecemeal(ctx, steps)
			}
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// missing is what has to be done in one family.
func (f *Firewall) missing(ctx context.Context, want ruleset, family int) ([]step, error) {
	seen, err := f.look(ctx, family)
	if err != nil {
		return nil, err
	}
	return seen.steps(want, family), nil
}

// Check reports where the rules differ from want.
func (f *Firewall) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	wanted := f.render(want)
	var all []plan.Drift
	for _, family := range families(want.Host) {
		steps, err := f.missing(ctx, wanted, family)
		if err != nil {
			return nil, err
		}
		all = append(all, f.drift(steps)...)
	}
	return all, nil
}

// Left reports what stands of ours, for whom nothing should.
func (f *Firewall) Left(ctx context.Context) ([]plan.Drift, error) {
	var all []plan.Drift
	for _, family := range []int{4, 6} {
		steps, err := f.missing(ctx, ruleset{}, family)
		if err != nil {
			return nil, err
		}
		all = append(all, f.drift(steps)...)
	}
	return all, nil
}

// families are those that the host has.
func families(h *plan.Host) []int {
	if h == nil || h.IPv6 {
		return []int{4, 6}
	}
	return []int{4}
}
