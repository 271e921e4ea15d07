package iptables

import (
	"context"
	"fmt"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

const pollEvery = 2 * time.Second

// settled is the plan of the last Apply, that ended before anybody reads this.
type settled struct{ *plan.Plan }

// Watch calls wake once at its beginning and whenever the rules have come to differ in
// another way from what was last applied, or in the same way anew, until ctx ends. Our own
// doing wakes nobody. It polls, for legacy iptables has no events; iptables-nft has those
// of nftables.
func (f *Firewall) Watch(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	before, mends := "", f.mends.Load()
	wake() // what has changed since somebody last looked
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// Whoever does the same again, once it was mended, leaves the rules as they were found
		// before.
		if m := f.mends.Load(); m != mends {
			before, mends = "", m
		}
		now, known := f.strays(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !known {
			continue
		}
		if now != "" && now != before {
			wake()
		}
		before = now
	}
}

// strays is all in which the rules differ from what was last applied. That is not known
// if an Apply is under way or came in between.
func (f *Firewall) strays(ctx context.Context) (drift string, known bool) {
	last := f.settled.Load()
	if last == nil {
		return "", false
	}
	found, err := f.Check(ctx, last.Plan)
	if f.settled.Load() != last {
		return "", false
	}
	if len(found) == 0 && err == nil {
		return "", true
	}
	return fmt.Sprintln(found, err), true // an error too: who looks will meet it and say so
}
