package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// adopts reports whether an object is a network's bridge that was there before us. It
// has no mark and gets none, so what we added to it is in the Memory.
func adopts(o object, d *device) bool {
	return o.bridge != nil && o.bridge.Named && d != nil && d.kind == "bridge" && !d.ours() && !o.recognises(d)
}

// adopted adds what a bridge lacks of what is planned, and takes away what we added
// for another plan. A MAC or an MTU of its own it keeps.
func (p *pass) adopted(d *device, b *plan.Bridge) error {
	defer p.noting()()
	if err := p.adopt(d); err != nil {
		return err
	}
	for _, s := range b.Settings {
		if err := p.setFound(foundSetting{link: d.name, Setting: s}); err != nil {
			return err
		}
	}
	if err := p.up(d); err != nil {
		return err
	}
	if err := p.withdraw(d, b.Addresses); err != nil {
		return err
	}
	return p.missing(d, b, func(a netip.Prefix) error { return p.remember(noteOf(d.name, a), 0) })
}

// adopt notes which bridge it is. One that was deleted and made again is as its maker
// wants it, and nothing that the former one was like is of any use.
func (p *pass) adopt(d *device) error {
	found, err := p.recall()
	if err != nil {
		return err
	}
	if was, known := found[adoptionKey+d.name]; known && !d.is(was) {
		if err := p.forgetLink(d.name); err != nil {
			return err
		}
	}
	if _, known := found[adoptionKey+d.name]; known || !p.mend {
		return nil
	}
	if err := p.pin(d); err != nil {
		return err
	}
	was := d.index
	if !d.up {
		was = -was
	}
	return p.remember(adoptionKey+d.name, was)
}

// pin has a bridge without ports keep the MAC that it has, which may be one of chance.
// Such a one would give way to the first container's, change as containers come and go,
// and be nothing but zeros in the end. No command shows that it is pinned, and none could
// take it back.
func (p *pass) pin(d *device) error {
	all, err := p.kernel.devices()
	if err != nil {
		return err
	}
	port := func(o *device) bool { return o.master == d.index }
	if slices.ContainsFunc(all, port) || strings.Trim(string(d.mac), "\x00") == "" {
		return nil
	}
	if err := p.kernel.setMAC(d, spec.MAC(d.mac)); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	return nil
}

// is reports whether a bridge is the one that was noted.
func (d *device) is(was int) bool { return was == d.index || was == -d.index }

// release leaves a bridge as it was found, save for its settings, which Restore has
// put back. It goes over what is remembered and not over a plan: we may have been
// killed at any time since.
func (p *pass) release(d *device) error {
	defer p.noting()()
	found, err := p.recall()
	if err != nil {
		return err
	}
	was, known := found[adoptionKey+d.name]
	if known && !d.is(was) {
		return p.forgetLink(d.name)
	}
	if err := p.withdraw(d, nil); err != nil {
		return err
	}
	if was < 0 && d.up {
		if err := p.differs("state", "down", "up", func() error { return p.down(d) }); err != nil {
			return err
		}
	}
	return p.forget(adoptionKey + d.name)
}

// withdraw takes away the addresses that we added and that are not to be kept.
func (p *pass) withdraw(d *device, keep []netip.Prefix) error {
	for _, a := range addedAddresses(p.found, d.name) {
		if slices.Contains(keep, a) {
			continue
		}
		addrs, err := p.scene.addresses(d.index)
		if err != nil {
			return err
		}
		if slices.Contains(addrs, a) {
			err = p.differs("address "+a.String(), "", "present", func() error { return p.takeAway(d, a, addrs) })
		}
		if err == nil {
			err = p.forget(noteOf(d.name, a))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeAway deletes one address. If it is the first of its subnet, others of the subnet
// would go with it, unless the kernel is told to have one of them take its place.
func (p *pass) takeAway(d *device, a netip.Prefix, addrs []netip.Prefix) error {
	p.scene.forgetAddresses()
	remove := func() error { return unlessGone(p.kernel.deleteAddress(d.index, a)) }
	shared := slices.ContainsFunc(addrs, func(b netip.Prefix) bool { return a != b && a.Masked() == b.Masked() })
	if !shared || a.Addr().Is6() {
		return remove()
	}
	return p.during(d.name, plan.Setting{Family: 4, Name: "promote_secondaries", Value: 1}, remove)
}

// down takes a link down. The kernel would take its addresses of IPv6 away.
func (p *pass) down(d *device) error {
	keep := plan.Setting{Family: 6, Name: "keep_addr_on_down", Value: 1}
	return p.during(d.name, keep, func() error {
		d.up = false
		return p.kernel.setDown(d)
	})
}

// unplannedAdoptions are the bridges that we adopted and that the plan has not. Only a
// complete scene has any.
func (p *pass) unplannedAdoptions(planned map[string]object) []object {
	if !p.scene.complete {
		return nil
	}
	found, err := p.recall()
	if err != nil {
		p.errs = append(p.errs, err)
	}
	var all []object
	for key := range found {
		name, ok := strings.CutPrefix(key, adoptionKey)
		if o := planned[name]; ok && (o.bridge == nil || !o.bridge.Named) {
			all = append(all, object{name: name, bridge: &plan.Bridge{Name: name, Named: true}})
		}
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.name, b.name) })
	return all
}

// makeBridge makes a bridge of our own. If a person's had its name, that is gone.
func (p *pass) makeBridge(o object) error {
	if o.bridge.Named {
		if err := p.forgetLink(o.name); err != nil {
			return fmt.Errorf("forget the former: %w", err)
		}
	}
	return p.kernel.createBridge(o.name)
}
