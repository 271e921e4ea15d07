package link

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// veth compares an endpoint's pair of interfaces.
func (p *pass) veth(o object) error {
	if away, err := p.name(o); away || err != nil {
		return err
	}
	there, err := p.scene.find(o.name)
	if err != nil {
		return err
	}
	if there == nil && o.veth.Joined {
		return p.differs(plan.PairField, "present", "", func() error { return nil }) // nobody would come for a new one
	}
	d, err := p.own(o, func() error { return p.createVeth(o) })
	if err != nil || d == nil {
		return err
	}
	if o.renewed && p.mend {
		p.introduce(o)
	}
	v, before := o.veth, p.mended
	for _, look := range []func() error{
		func() error { return p.mac(d, birthMAC(v.Name)) },
		func() error { return p.pairMTU(d, v) },
		func() error { return p.master(d, v.Bridge) },
		func() error { return p.settings(v.Name, v.Settings) },
		func() error { return p.hairpin(d) },
		func() error { return p.isolated(d, v.Isolated) },
		func() error { return p.up(d) },
		func() error { return p.bare(d) },
		func() error { return p.peer(o, d) },
	} {
		if err := look(); err != nil {
			return err
		}
	}
	if there != nil && p.mended > before {
		p.reintroduce(o)
	}
	return nil
}

func (p *pass) createVeth(o object) error {
	bridge, err := p.scene.find(o.veth.Bridge)
	if err != nil {
		return err
	}
	if bridge == nil {
		return fmt.Errorf("bridge %s: %w", o.veth.Bridge, unix.ENODEV)
	}
	return p.kernel.createVeth(o.veth, bridge)
}

// pairMTU leaves what a pair has from its bridge: the container's end, which is the
// engine's, would not follow.
func (p *pass) pairMTU(d *device, v *plan.Veth) error {
	if v.MTU == 0 {
		return nil
	}
	return p.mtu(d, v.MTU)
}

func (p *pass) master(d *device, name string) error {
	bridge, err := p.scene.find(name)
	if err != nil {
		return err
	}
	if bridge != nil && bridge.index == d.master {
		return nil
	}
	got := ""
	if d.master != 0 {
		got = p.scene.nameOf(d.master)
	}
	return p.differs("master", name, got, func() error {
		if bridge == nil {
			return unix.ENODEV
		}
		d.hairpin, d.isolated = false, false // a new port begins without
		return p.kernel.setMaster(d, bridge.index)
	})
}

// hairpin lets the bridge send a frame back to the port that it came from, which a
// container needs to reach itself through a published port.
func (p *pass) hairpin(d *device) error {
	if d.hairpin {
		return nil
	}
	return p.differs("hairpin", "on", "off", func() error { return p.kernel.setHairpin(d) })
}

// isolated has the bridge keep the port apart from others that it keeps apart, or not.
// It comes before the port is up.
func (p *pass) isolated(d *device, want bool) error {
	if d.isolated == want {
		return nil
	}
	return p.differs("isolated", onOff(want), onOff(d.isolated), func() error { return p.kernel.setIsolated(d, want) })
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// peer compares the container's end while it is still here. Once the engine has
// taken it, it is the engine's.
func (p *pass) peer(o object, d *device) error {
	peer, err := p.scene.find(o.veth.Peer)
	if err != nil || peer == nil || !d.peerHere || peer.index != d.peer {
		return err
	}
	p.object = "link " + o.veth.Peer // drift is named by the end that has it
	if err := p.mac(peer, o.veth.MAC); err != nil {
		return fmt.Errorf("peer %s: %w", o.veth.Peer, err)
	}
	if err := p.pairMTU(peer, o.veth); err != nil {
		return fmt.Errorf("peer %s: %w", o.veth.Peer, err)
	}
	return nil
}
