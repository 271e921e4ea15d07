package iptables

import (
	"context"
	"slices"
)

// Remove takes away our chains and whatever leads to them, and with iptables-nft the
// hooks that nobody else uses. Of its tables nothing is left but their names; those of
// legacy iptables stay, and the kernel asks them.
func (f *Firewall) Remove(ctx context.Context) error {
	f.settled.Store(nil)
	hooked := f.hooked(ctx)
	if err := f.mend(ctx, ruleset{}, []int{4, 6}); err != nil {
		return err
	}
	f.unhook(hooked)
	return nil
}

// hooked are the chains of others in which we have something.
func (f *Firewall) hooked(ctx context.Context) []place {
	var all []place
	for _, family := range []int{4, 6} {
		seen, err := f.look(ctx, family)
		if err != nil {
			continue // which the next look will say
		}
		for _, at := range seen.places() {
			isOurs := func(text string) bool { _, ours := readBack(text); return ours }
			if !at.ours() && slices.ContainsFunc(seen[at], isOurs) {
				all = append(all, at)
			}
		}
	}
	return all
}

// unhook takes away built-in chains in which nothing is left. Every packet would be asked
// of them, and one of nat has the kernel track connections. Whoever needs one by iptables
// makes it so. A chain that somebody has begun to use, or that has a policy, is refused by
// iptables-nft in the transaction itself; an old one refuses all of them.
func (f *Firewall) unhook(all []place) {
	if f.kind != NFT {
		return
	}
	for _, at := range all {
		_ = f.tools[at.family].DeleteChain(at.table, at.chain)
	}
}
