package link

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// pass is one walk over what is planned. Where the host differs it either notes
// the difference or mends it; so what Check names is what Apply would do.
type pass struct {
	kernel *Kernel
	scene  *scene
	mend   bool

	owner  plan.Owner // whose object is being looked at
	object string     // e.g. link dbr3f2a9c0d11ee

	found map[string]int // what the Memory holds; nil until read

	mended int            // how many differences
	healed map[string]int // by bridges, how many of their ports carry frames again

	drift []plan.Drift
	errs  []error
}

// whole is the field of a difference that concerns the link as such.
const whole = "link"

// differs is called for each difference found.
func (p *pass) differs(field, want, got string, mend func() error) error {
	if !p.mend {
		p.drift = append(p.drift, plan.Drift{Owner: p.owner, Object: p.object, Field: field, Want: want, Got: got})
		return nil
	}
	err := failpoint.Step(p.object+" of "+string(p.owner.Network), field)
	if err == nil {
		err = mend()
		p.mended++
		p.kernel.wrote.Store(true)
	}
	if err != nil && field != whole {
		return fmt.Errorf("%s: %w", field, err)
	}
	return err
}

// on looks at one object and keeps its error from the others.
func (p *pass) on(owner plan.Owner, object string, look func() error) {
	p.owner, p.object = owner, object
	if err := look(); err != nil {
		p.errs = append(p.errs, &plan.ObjectError{Owner: owner, Object: object, Err: err})
	}
}

// links goes over bridges and veth pairs, adding before deleting; but a bridge
// that goes frees its subnet first, and so does any link whose name is wanted.
func (p *pass) links(ctx context.Context, gone, wanted []object) {
	names := map[string]bool{}
	for _, o := range wanted {
		names[o.name] = true
	}
	first := func(o object) bool { return o.bridge != nil || names[o.name] }
	last := func(o object) bool { return !first(o) }
	bridge := func(o object) bool { return o.bridge != nil }
	veth := func(o object) bool { return o.veth != nil }

	p.each(ctx, gone, first, p.remove)
	p.each(ctx, wanted, bridge, p.bridge)
	p.each(ctx, wanted, veth, p.veth)
	p.announceGateways()
	p.each(ctx, gone, last, p.remove)
}

func (p *pass) each(ctx context.Context, objects []object, which func(object) bool, look func(object) error) {
	for _, o := range objects {
		if !which(o) {
			continue
		}
		p.on(o.owner, "link "+o.name, func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return look(o)
		})
	}
}

// own finds the object's link, or makes it. It returns nil, in a walk that only
// looks, where there is none or where the one of that name is not ours.
func (p *pass) own(o object, create func() error) (*device, error) {
	d, err := p.scene.find(o.name)
	if err == nil && d == nil {
		if err := p.differs(whole, "present", "", create); err != nil || !p.mend {
			return nil, err
		}
		d, err = p.scene.fetch(o.name)
		if err == nil && d == nil {
			err = unix.ENODEV // taken away again at once
		}
	}
	switch {
	case err != nil:
		return nil, err
	case d.alias == o.mark && d.kind == o.kind():
		return d, nil
	case o.recognises(d):
		return d, p.differs("mark", o.mark, d.alias, func() error {
			p.introduce(o) // before the mark: whoever is killed in between does it again
			return p.kernel.setAlias(d, o.mark)
		})
	}
	foreign := strings.TrimSpace(d.kind + " link")
	if d.alias != "" {
		foreign += " with alias " + strconv.Quote(d.alias)
	}
	return nil, p.differs(whole, o.mark, foreign, func() error {
		if o.bridge != nil && o.bridge.Named && d.kind != "bridge" {
			return fmt.Errorf("%w: it is a %s and no bridge; choose another name by com.docker.network.bridge.name", unix.EEXIST, foreign)
		}
		return fmt.Errorf("%w: it is a %s and not ours: rename it, or ip link delete %s", unix.EEXIST, foreign, o.name)
	})
}

// unplanned lists what is ours and what we adopted that the plan does not have.
func (p *pass) unplanned(planned map[string]object) []object {
	return append(p.scene.unplanned(planned), p.unplannedAdoptions(planned)...)
}

// remove deletes a link that is ours and should not be, and lets go of an adopted one.
func (p *pass) remove(o object) error {
	d, err := p.scene.find(o.name)
	switch {
	case err != nil:
		return err
	case adopts(o, d):
		return p.release(d)
	case o.bridge != nil && o.bridge.Named && (d == nil || !d.ours()):
		return p.forgetLink(o.name)
	case d == nil || d.alias != o.mark && !d.halfMade():
		return nil
	}
	return p.differs(whole, "", "present", func() error {
		p.scene.forget(d)
		return unlessGone(p.kernel.deleteLink(d))
	})
}

// settings compares sysctls in the order of the plan.
func (p *pass) settings(link string, settings []plan.Setting) error {
	for _, s := range settings {
		got, err := readSetting(link, s)
		if err != nil {
			return err
		}
		if got == s.Value {
			continue
		}
		err = p.differs(field(s), strconv.Itoa(s.Value), strconv.Itoa(got), func() error {
			return p.kernel.writeSetting(link, s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func field(s plan.Setting) string { return fmt.Sprintf("ipv%d.%s", s.Family, s.Name) }

// up brings a link up. It comes after the settings, some of which the kernel acts
// upon at that moment.
func (p *pass) up(d *device) error {
	if d.up {
		return nil
	}
	return p.differs("state", "up", "down", func() error { return p.kernel.setUp(d) })
}

func (p *pass) mtu(d *device, want int) error {
	if d.mtu == want {
		return nil
	}
	return p.differs("mtu", strconv.Itoa(want), strconv.Itoa(d.mtu), func() error { return p.kernel.setMTU(d, want) })
}

func (p *pass) mac(d *device, want spec.MAC) error {
	if string(d.mac) == string(want[:]) {
		return nil
	}
	return p.differs("address", want.String(), d.mac.String(), func() error {
		d.mac = want[:]
		return p.kernel.setMAC(d, want)
	})
}
