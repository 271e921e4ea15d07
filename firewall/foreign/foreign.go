// Package foreign is the firewall of others, as far as we must know it and be let
// through it: it tells which bridges an engine's own iptables or nftables rules
// name and which FORWARD chains drop what they do not know, and keeps the accepts for
// our bridges in those chains. It tells of nftables chains that drop our packets where
// no accept of ours would help.
//
// It sets no policy, makes no chain or table and touches no rule without our mark.
// What its accepts would let through too much is held by firewall/nftables.
package foreign

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/coreos/go-iptables/iptables"

	"github.com/drawbridge-net/drawbridge/plan"
)

// The two iptables that a kernel can have at once: rules in nftables' tables ip
// filter and ip6 filter, and those of the older x_tables.
const (
	kindNFT    = "nft"
	kindLegacy = "legacy"
)

// Rules are the foreign rules of this network namespace. They are read anew each
// time; the zero Rules are ready.
type Rules struct {
	// Warn, if set, is told of each chain that drops our packets, once, and again if it
	// was gone meanwhile.
	Warn func(text string)

	sentry sentry
	mu     sync.Mutex
	tools  map[plan.Chain]*iptables.IPTables
	// wrote says that we have changed rules of legacy iptables since Watch read them.
	wrote atomic.Bool
}

// filter is one filter table as far as it concerns us.
type filter struct {
	plan.Chain
	drops   bool     // FORWARD drops what no rule decides on in particular
	forward []rule   // FORWARD's rules
	engines []string // bridges that an engine's rules name
	shields bool     // these rules are of an engine that shields its containers
	hidden  error    // why none of this could be read
}

// Look finds, each sorted, the bridges that an engine's own rules name and the
// FORWARD chains that drop what no rule decides on in particular. Of the bridges it fills in Name and Shielded.
// Rules of legacy iptables on a host without its command stay unseen; the layers'
// Check says so.
func (r *Rules) Look(ctx context.Context) (engines []plan.HostLink, drops []plan.Chain, err error) {
	filters, err := read(ctx)
	if err != nil {
		return nil, nil, err
	}
	shielded := map[string]bool{}
	for _, f := range filters {
		for _, name := range f.engines {
			shielded[name] = shielded[name] || f.shields
		}
		if f.drops {
			drops = append(drops, f.Chain)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shielded)) {
		engines = append(engines, plan.HostLink{Name: name, Shielded: shielded[name]})
	}
	return engines, drops, nil
}

// read reads every filter table that exists, in fixed order.
func read(ctx context.Context) ([]filter, error) {
	nft, err := readNFT()
	if err != nil {
		return nil, err
	}
	legacy, err := readLegacy(ctx)
	return append(nft, legacy...), err
}

// tool is the command that writes a chain of legacy iptables. It is asked for its
// version once.
func (r *Rules) tool(c plan.Chain) (*iptables.IPTables, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tools[c]; t != nil {
		return t, nil
	}
	proto := iptables.ProtocolIPv4
	if c.Family == 6 {
		proto = iptables.ProtocolIPv6
	}
	t, err := iptables.New(iptables.IPFamily(proto), iptables.Path(command(c)), iptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("%s writes this rule and does not run: install iptables 1.8 or newer: %w", command(c), err)
	}
	if r.tools == nil {
		r.tools = map[plan.Chain]*iptables.IPTables{}
	}
	r.tools[c] = t
	return t, nil
}

// lockWait is for how many seconds a command waits for the lock that all
// commands of legacy iptables share.
const lockWait = 10

// command is e.g. ip6tables-nft: never the bare name, which is either of the two.
func command(c plan.Chain) string {
	if c.Family == 6 {
		return "ip6tables-" + c.Kind
	}
	return "iptables-" + c.Kind
}
