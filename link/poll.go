package link

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

const pollEvery = 2 * time.Second

// Poll calls wake once at its beginning and, until ctx ends, when something has changed of
// which no event tells: br_netfilter has come, one of its switches is another, or a setting
// of a bridge or an uplink has come to differ from what was last applied. The ports'
// settings are not polled: what turns IPv6 on there gives them an address, which has one.
func (k *Kernel) Poll(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var before, now plan.Host
	lookAtBridged(&before)
	strayed := ""
	wake() // for what happened before that
	for ; ; before = now {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		lookAtBridged(&now)
		// Whoever sets at once what we have just set leaves it as it was before.
		wrote := k.wrote.Swap(false)
		strays := k.strayingSettings()
		if now.Unseen4 != before.Unseen4 || now.Unseen6 != before.Unseen6 || strays != "" && (wrote || strays != strayed) {
			wake()
		}
		strayed = strays
	}
}

// strayingSettings is all in which the settings of bridges and uplinks differ from what was
// last applied, as text. One of which nobody knows how it is differs from none: the next
// look will say so.
func (k *Kernel) strayingSettings() string {
	var all []string
	for _, s := range k.polled() {
		if got, err := readSetting(s.link, s.Setting); err == nil && got != s.Value {
			all = append(all, fmt.Sprintf("%s %d\n", s.key(), got))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func (k *Kernel) polled() []foundSetting {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := flat(k.uplinks)
	for _, o := range k.planned {
		if o.bridge == nil {
			continue
		}
		for _, s := range o.bridge.Settings {
			all = append(all, foundSetting{link: o.name, Setting: s})
		}
		if o.bridge.Named {
			continue // its other settings are ours only if the bridge is, which is looked for by others
		}
		for _, s := range o.bridge.OwnSettings {
			all = append(all, foundSetting{link: o.name, Setting: s})
		}
	}
	return all
}
