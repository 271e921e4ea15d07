// Package firewall chooses, of the two firewalls that we have, the one for this host,
// or none, and takes away what others of ours have left.
//
// It judges no packet and writes no rule: firewall/nftables and firewall/iptables do.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drawbridge-net/drawbridge/firewall/iptables"
	"github.com/drawbridge-net/drawbridge/firewall/nftables"
	"github.com/drawbridge-net/drawbridge/plan"
)

// Mode is what a person wants.
type Mode string

// Auto is NFTables where the kernel takes a trial of it, else IPTables. None makes nothing,
// and what stands of ours goes: any host will do.
const (
	Auto     Mode = "auto"
	NFTables Mode = "nftables"
	IPTables Mode = "iptables"
	None     Mode = "none"
)

// UnmarshalText refuses what is no Mode.
func (m *Mode) UnmarshalText(text []byte) error {
	switch mode := Mode(text); mode {
	case Auto, NFTables, IPTables, None:
		*m = mode
		return nil
	}
	return fmt.Errorf("firewall %q: want %s, %s, %s or %s", text, Auto, NFTables, IPTables, None)
}

// MarshalText is the reverse.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m), nil }

// Layer makes one part of the host match a plan.
type Layer interface {
	Apply(ctx context.Context, have, want *plan.Plan) error
	Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error)
	Remove(ctx context.Context) error
}

// backend is either firewall, or none.
type backend interface {
	Layer
	// Left reports what stands of ours, for whom nothing should.
	Left(ctx context.Context) ([]plan.Drift, error)
}

// Firewall is the layer of the one that was chosen. Open makes it.
type Firewall struct {
	backend
	// Name is e.g. iptables-legacy.
	Name string
	// Reason is why it was chosen, e.g. auto: nftables refused: operation not permitted.
	Reason string

	nft     *nftables.Firewall // to look and to be told of changes, even if another was chosen
	refused error              // why there is no nft
	ipt     *iptables.Firewall // nil unless it was chosen

	began  time.Time   // when it was chosen
	stands atomic.Bool // the drops do, as far as is known; see Behind

	mu       sync.Mutex
	others   map[string]*iptables.Firewall // kinds that were not chosen and have rules of somebody
	editions map[string]string             // by name, those in which nothing was left
}

// Open chooses. It changes nothing on the host.
func Open(ctx context.Context, mode Mode) (*Firewall, error) {
	f := &Firewall{Reason: "as told", others: map[string]*iptables.Firewall{}, editions: map[string]string{}, began: time.Now()}
	err := f.choose(ctx, mode)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return f, nil
}

// String is e.g. nftables (as told; nobody else can change its tables).
func (f *Firewall) String() string { return f.Name + " (" + f.Reason + ")" }

func (f *Firewall) choose(ctx context.Context, mode Mode) error {
	f.refused = patiently(ctx, func() (err error) {
		f.nft, err = nftables.New()
		return err
	})
	if f.refused != nil && !tellsOfLack(f.refused) {
		return fmt.Errorf("nftables, which this kernel seems to have: %w", f.refused)
	}
	switch mode {
	case None:
		f.Name, f.backend = string(None), none{f}
		return nil
	case IPTables:
		return f.useIPTables(ctx)
	}
	refused := f.try(ctx)
	switch bridgeless := errors.Is(refused, nftables.ErrBridgeless); {
	case refused != nil && !tellsOfLack(refused):
		return fmt.Errorf("a trial of nftables came to no end: %w: try again, or use --firewall=%s", refused, IPTables)
	case mode == NFTables && refused != nil && !bridgeless:
		return fmt.Errorf("the kernel refuses nftables: %w: load nf_tables, or use --firewall=%s", refused, IPTables)
	case mode == NFTables:
		f.useNFTables()
		return nil
	case refused == nil:
		f.Reason = "auto: the kernel took a trial of all that it needs"
		f.useNFTables()
		return nil
	}
	return f.fallBack(ctx, refused)
}

// fallBack chooses where the kernel refused nftables, or the part of it without which
// one can live.
func (f *Firewall) fallBack(ctx context.Context, refused error) error {
	f.Reason = fmt.Sprintf("auto: nftables refused: %v", refused)
	err := f.useIPTables(ctx)
	if err != nil && errors.Is(refused, nftables.ErrBridgeless) {
		f.Reason = fmt.Sprintf("auto: of nftables the kernel refused a part (%v), and %v", refused, err)
		f.useNFTables()
		return nil
	}
	if err != nil {
		return fmt.Errorf("the kernel refuses nftables (%w: load nf_tables), and there is no iptables in its place: %w", refused, err)
	}
	return nil
}

func (f *Firewall) try(ctx context.Context) error {
	if f.refused != nil {
		return f.refused
	}
	return patiently(ctx, func() error { return f.nft.Try(ctx) })
}

func (f *Firewall) useNFTables() {
	f.Name, f.backend = "nftables", f.nft
	f.Reason += "; " + f.nft.Ownership()
}

func (f *Firewall) useIPTables(ctx context.Context) error {
	found, err := iptables.Find(ctx)
	if err != nil {
		return err
	}
	f.Name, f.backend, f.ipt = "iptables-"+found.Kind(), found, found
	return nil
}

// Close gives the connection back. What stands in the kernel stays.
func (f *Firewall) Close() {
	if f.nft != nil {
		f.nft.Close()
	}
}

// Absent reports whether none was chosen.
func (f *Firewall) Absent() bool { return f.Name == string(None) }

// Blind reports whether it does not see, on such a host, what passes from port to port
// of one bridge. Of two families it must see both.
func (f *Firewall) Blind(h *plan.Host) bool {
	return f.ipt != nil && (h.Unseen4 || h.IPv6 && h.Unseen6)
}

// Notices says what users should know of this kernel.
func (f *Firewall) Notices() []string {
	var all []string
	if f.ipt != nil {
		all = f.ipt.Notices()
	}
	if f.refused == nil {
		return all
	}
	return append(all, fmt.Sprintf("nftables cannot be read (%v): what an engine, others or an earlier drawbridge have put there is neither seen nor changed", f.refused))
}

// Watches are what tells of changes, each until its ctx ends. Those of nftables concern
// us in any case: the rules of engines, and what iptables-nft keeps, are among them.
func (f *Firewall) Watches() []func(ctx context.Context, wake func()) error {
	var all []func(context.Context, func()) error
	if f.nft != nil {
		all = append(all, f.nft.Watch)
	}
	if f.ipt != nil && (f.nft == nil || f.ipt.Kind() == iptables.Legacy) { // else all would be told twice
		all = append(all, f.ipt.Watch)
	}
	return all
}
