package iptables

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const pollEvery = 2 * time.Second

// Watch calls wake once at its beginning and whenever rules of ours, what stands ahead
// of them or what Blind says have changed, until ctx ends. Neither legacy iptables nor
// a sysctl has events, so it polls; the caller may have done a change itself.
func (f *Firewall) Watch(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	before := f.fingerprint(ctx)
	wake() // what has changed since somebody last looked
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := f.fingerprint(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if now != before {
			wake() // if it is an error, who looks will meet it and say so
		}
		before = now
	}
}

// fingerprint is all that an Apply would look at, of both families.
func (f *Firewall) fingerprint(ctx context.Context) string {
	var b strings.Builder
	fmt.Fprintln(&b, Blind(4), Blind(6))
	for _, family := range []int{4, 6} {
		seen, err := f.look(ctx, family)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
		for _, at := range seen.places() {
			for i, text := range seen[at] {
				if _, ours := readBack(text); ours || at.ours() {
					fmt.Fprintln(&b, at, i == 0, text)
				}
			}
		}
	}
	return b.String()
}
