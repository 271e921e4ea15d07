package link

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// What managers of networks do to links that they take for theirs, and how ours get back
// what is theirs.

// marked finds the link that has an object's mark under another name. Only a scene that is
// complete can tell.
func (s *scene) marked(o object) *device {
	if !s.complete || s.byName[o.name] != nil {
		return nil
	}
	for _, d := range s.byName {
		if d.alias == o.mark && d.kind == o.kind() {
			return d
		}
	}
	return nil
}

// strayed are the names that planned links have been given by others. A container would
// not survive the loss of its link, so these do not go but get their names back.
func (s *scene) strayed(planned map[string]object) map[string]bool {
	marks := map[string]object{}
	for name, o := range planned {
		if name == o.name && s.byName[name] == nil {
			marks[o.mark] = o
		}
	}
	names := map[string]bool{}
	for name, d := range s.byName {
		if o, ok := marks[d.alias]; ok && d.kind == o.kind() {
			delete(marks, d.alias) // a second one of the same mark is nobody's
			names[name] = true
		}
	}
	return names
}

// name gives an object's link its name back. It reports whether there is nothing more to
// look at, since by the object's name nothing is found yet.
func (p *pass) name(o object) (away bool, err error) {
	d := p.scene.marked(o)
	if d == nil {
		return false, nil
	}
	err = p.differs("name", o.name, d.name, func() error {
		err := p.kernel.rename(d, o.name)
		if errors.Is(err, unix.EBUSY) { // before Linux 6.2 one that is up keeps its name
			d.up = false
			err = errors.Join(p.kernel.setDown(d), p.kernel.rename(d, o.name))
		}
		if err != nil {
			return err
		}
		p.scene.forgetAddresses() // IPv6 loses them when a link goes down
		delete(p.scene.byName, d.name)
		d.name = o.name
		p.scene.byName[d.name] = d
		return nil
	})
	return !p.mend, err
}

// bare takes away the addresses that somebody gave a port of a bridge: the host would
// answer for them there, and send what is meant for their subnets. Requests do not pay for
// this look.
func (p *pass) bare(d *device) error {
	if !p.scene.complete {
		return nil
	}
	return p.only(d, nil)
}

// only takes away all addresses but these and link-local ones.
func (p *pass) only(d *device, planned []netip.Prefix) error {
	addrs, err := p.scene.addresses(d.index)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Addr().IsLinkLocalUnicast() || slices.Contains(planned, a) {
			continue
		}
		err := p.differs("address "+a.String(), "", "present", func() error {
			p.scene.forgetAddresses()
			return unlessGone(p.kernel.deleteAddress(d.index, a))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// linkLocal gives a bridge the address back without which the host asks for no neighbour
// on behalf of others. The kernel gives it one when the bridge first has a carrier, and
// never again.
func (p *pass) linkLocal(d *device, b *plan.Bridge) error {
	six := func(a netip.Prefix) bool { return a.Addr().Is6() }
	if !d.carrier || !slices.ContainsFunc(b.Addresses, six) {
		return nil
	}
	addrs, err := p.scene.addresses(d.index)
	if err != nil || slices.ContainsFunc(addrs, func(a netip.Prefix) bool { return six(a) && a.Addr().IsLinkLocalUnicast() }) {
		return err
	}
	a := interfaceAddress(b.MAC)
	return p.differs("address "+a.String(), "present", "", func() error {
		err := p.kernel.routes.AddrAdd(nil, address(d.index, a))
		if errors.Is(err, unix.EEXIST) {
			return nil // the kernel was faster
		}
		return err
	})
}

// interfaceAddress is the link-local address that the kernel makes of a MAC (RFC 4291,
// appendix A).
func interfaceAddress(mac spec.MAC) netip.Prefix {
	a := netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
	return netip.PrefixFrom(a, 64)
}
