package link

import (
	"fmt"
	"slices"
	"strings"
)

// forgottenKey begins the Memory's keys of pairs that lead to a container and that no plan
// has, e.g. forgotten.dbv3f2a9c0d11ee. Their value is the link's index.
const forgottenKey = "forgotten."

// Distrust says that what is remembered may be less than what we made: the first Apply
// leaves the pairs that lead to somebody, though the plan lacks them, and so do all later
// ones. They end with their containers.
func (k *Kernel) Distrust() { k.distrust = true }

// Notices names the pairs that were left, and what frees them.
func (k *Kernel) Notices() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, name := range k.forgotten {
		all = append(all, fmt.Sprintf("link %s leads to a container of whose endpoint nothing is remembered: the container stays connected, "+
			"without published ports and with an address that others may be given; restart it, or ip link delete %[1]s", name))
	}
	return all
}

// spared are the unplanned links without the forgotten pairs, their bridges, and what was
// noted of others.
func (p *pass) spared(unplanned []object) ([]object, error) {
	if !p.scene.complete {
		return unplanned, nil
	}
	found, err := p.recall()
	if err != nil {
		return nil, err
	}
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	spared := map[int]bool{} // by index
	var names []string
	for _, o := range unplanned {
		d := p.scene.byName[o.name]
		if o.veth == nil || d == nil || !leadsAway(d) {
			continue
		}
		if was, known := found[forgottenKey+o.name]; !known || was != d.index {
			if !k.distrust {
				continue
			}
			if err := p.noteForgotten(d); err != nil {
				return nil, err
			}
		}
		spared[d.index], spared[d.master] = true, true
		names = append(names, o.name)
	}
	k.forgotten = names
	for key := range found {
		if name, ok := strings.CutPrefix(key, forgottenKey); ok && !slices.Contains(names, name) {
			if err := p.forget(key); err != nil {
				return nil, err
			}
		}
	}
	if p.mend {
		k.distrust = false // all are noted
	}
	return slices.DeleteFunc(unplanned, func(o object) bool {
		d := p.scene.byName[o.name]
		return d != nil && spared[d.index]
	}), nil
}

// all are the unplanned links, whoever is behind them.
func (p *pass) all(unplanned []object) ([]object, error) {
	p.kernel.mu.Lock()
	p.kernel.forgotten = nil
	p.kernel.mu.Unlock()
	found, err := p.recall()
	if err != nil {
		return nil, err
	}
	for key := range found {
		if strings.HasPrefix(key, forgottenKey) {
			if err := p.forget(key); err != nil {
				return nil, err
			}
		}
	}
	return unplanned, nil
}

// leadsAway reports whether the other end of a pair is in another namespace.
func leadsAway(d *device) bool { return d.kind == "veth" && !d.peerHere }

func (p *pass) noteForgotten(d *device) error {
	key := forgottenKey + d.name
	if err := p.forget(key); err != nil { // of an earlier link of its name
		return err
	}
	if !p.mend {
		return nil
	}
	return p.remember(key, d.index)
}
