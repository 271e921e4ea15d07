package link

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/drawbridge-net/drawbridge/plan"
)

// bridge compares a network's bridge, and its addresses last: disable_ipv6 would
// take those of IPv6 away again.
func (p *pass) bridge(o object) error {
	if away, err := p.name(o); away || err != nil {
		return err
	}
	there, err := p.scene.find(o.name)
	if err != nil {
		return err
	}
	if adopts(o, there) {
		return p.adopted(there, o.bridge)
	}
	d, err := p.own(o, func() error { return p.makeBridge(o) })
	if err != nil || d == nil {
		return err
	}
	b, before := o.bridge, p.mended
	for _, look := range []func() error{
		func() error { return p.mac(d, b.MAC) },
		func() error { return p.mtu(d, b.MTU) },
		func() error { return p.spanning(d) },
		func() error { return p.settings(b.Name, b.Settings) },
		func() error { return p.settings(b.Name, b.OwnSettings) },
		func() error { return p.up(d) },
		func() error { return p.surplus(d, b) },
		func() error { return p.missing(d, b, func(netip.Prefix) error { return nil }) },
		func() error { return p.linkLocal(d, b) },
	} {
		if err := look(); err != nil {
			return err
		}
	}
	if p.mended > before {
		p.heal(b.Name)
	}
	return nil
}

// spanning keeps the spanning tree off and ports without delay: else a new
// container would be cut off for twice 15 seconds. With the tree on, the kernel
// refuses a delay of 0, so it goes first.
func (p *pass) spanning(d *device) error {
	if d.stp {
		if err := p.differs("stp", "off", "on", func() error { return p.kernel.setSTPOff(d) }); err != nil {
			return err
		}
	}
	if d.delay != 0 {
		return p.differs("forward delay", "0", strconv.Itoa(d.delay), func() error { return p.kernel.setNoDelay(d) })
	}
	return nil
}

// surplus takes away addresses that are not planned. It comes before missing: an
// address of IPv4 that is added beside another of its subnet becomes that one's
// secondary, and would go with it. A bridge whose name a person chose may be known to
// others too, who take it for theirs: what they add stays.
func (p *pass) surplus(d *device, b *plan.Bridge) error {
	if b.Named {
		return nil
	}
	return p.only(d, b.Addresses)
}

// missing adds the planned addresses, each after it was noted by whoever has to.
func (p *pass) missing(d *device, b *plan.Bridge, note func(netip.Prefix) error) error {
	addrs, err := p.scene.addresses(d.index)
	if err != nil {
		return err
	}
	for _, a := range b.Addresses {
		if slices.Contains(addrs, a) {
			continue
		}
		err := p.differs("address "+a.String(), "present", "", func() error {
			if err := note(a); err != nil {
				return err
			}
			return p.kernel.addAddress(d.index, a)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
