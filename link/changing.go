package link

// changing are the links that an Apply works on just now. What the kernel tells of them
// meanwhile may be its own doing half done, so it is looked into afterwards.
type changing struct {
	now   map[string]bool
	heard map[string]bool // those of which the kernel has told something
	wake  func()          // Watch's, nil without one
}

// begin is called before objects are changed, and what it returns afterwards.
func (k *Kernel) begin(objects ...[]object) (done func()) {
	var names []string
	for _, some := range objects {
		for _, o := range some {
			names = append(names, o.name)
			if o.veth != nil && o.veth.Peer != "" {
				names = append(names, o.veth.Peer)
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		k.now[name] = true
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
	if k.now[name] {
		k.heard[name] = true
	}
	return k.now[name]
}

// planFor is what was last applied to a link.
func (k *Kernel) planFor(name string) (object, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o, planned := k.planned[name]
	return o, planned
}

func (k *Kernel) isChanging(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now[name]
}
