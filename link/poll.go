package link

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

const pollEvery = 2 * time.Second

// Poll calls wake once at its beginning and, until ctx ends, when something has changed of
// which no event tells: br_netfilter has come, one of its switches is another, or a setting
// of a bridge or an uplink has come to differ from what was last applied, or a port has IPv6.
// That gives it an address, which has an event only when nobody else is found to have it.
func (k *Kernel) Poll(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var now plan.Host
	k.lookAtBridged(&now)
	strayed := ""
	wake() // for what happened before that
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// It may have been another for so short that only somebody else has seen it.
		before := k.glimpsed.Swap(0)
		k.lookAtBridged(&now)
		// Whoever sets at once what we have just set leaves it as it was before.
		wrote := k.wrote.Swap(false)
		strays := k.strayingSettings()
		if before&^glimpse(&now) != 0 || strays != "" && (wrote || strays != strayed) {
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
	all = append(all, k.portsWithIPv6()...)
	slices.Sort(all)
	return strings.Join(all, "")
}

// portsWithIPv6 are the host's ends of pairs that have an address, which is one file for all.
func (k *Kernel) portsWithIPv6() []string {
	table, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil {
		return nil // there is no IPv6
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for line := range strings.Lines(string(table)) {
		// address, index, prefix length, scope, flags, name
		words := strings.Fields(line)
		if len(words) < 6 {
			continue
		}
		if o := k.planned[words[5]]; o.veth != nil && o.name == words[5] && len(o.veth.Settings) > 0 && !k.changes(o) {
			all = append(all, line)
		}
	}
	return all
}

// polled are the settings that are as was last applied, unless an Apply is at work on them.
func (k *Kernel) polled() []foundSetting {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := flat(k.uplinks)
	for _, o := range k.planned {
		if o.bridge == nil || k.changes(o) {
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
