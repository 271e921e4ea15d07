package link

import (
	"maps"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
)

// changing are the links that an Apply works on just now. What the kernel tells of them
// meanwhile may be its own doing half done, so it is looked into afterwards.
type changing struct {
	now   map[string]plan.Owner
	heard map[string]bool // those of which the kernel has told something
	wake  func()          // Watch's, nil without one
}

// begin is called before objects are changed, and what it returns afterwards.
func (k *Kernel) begin(objects ...[]object) (done func()) {
	var names []string
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range slices.Concat(objects...) {
		for _, name := range o.names() {
			k.now[name] = o.owner
			names = append(names, name)
		}
	}
	return func() { k.end(names) }
}

func (k *Kernel) end(names []string) {
	k.mu.Lock()
	var heard []string
	for _, name := range names {
		if k.heard[name] {
			heard = append(heard, name)
		}
		delete(k.now, name)
		delete(k.heard, name)
	}
	wake := k.wake
	k.mu.Unlock()
	for _, name := range heard {
		if k.strays(name) {
			wake()
			return
		}
	}
}

// hear reports whether an Apply is changing a link, which then has it looked at again.
func (k *Kernel) hear(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, changing := k.now[name]
	if changing {
		k.heard[name] = true
	}
	return changing
}

// planFor is what was last applied to a link.
func (k *Kernel) planFor(name string) (object, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o, planned := k.planned[name]
	return o, planned
}

// changes is isChanging for an object. mu is held.
func (k *Kernel) changes(o object) bool {
	_, changing := k.now[o.name]
	return changing
}

func (k *Kernel) isChanging(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, changing := k.now[name]
	return changing
}

// claims are whose the links are that are planned or being changed, by name.
func (k *Kernel) claims() map[string]plan.Owner {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := maps.Clone(k.now)
	for name, o := range k.planned {
		all[name] = o.owner
	}
	return all
}
