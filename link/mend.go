package link

import (
	"context"
	"errors"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Mend makes right what is one network's. It looks at every link and touches none of another
// network, so that those may be changed meanwhile. No network stands for what is nobody's:
// the settings of uplinks, and links with our mark that no plan has.
func (k *Kernel) Mend(ctx context.Context, want *plan.Plan, network spec.ID) error {
	p := &pass{kernel: k, mend: true, scene: newScene(k)}
	unplanned, wanted, err := p.survey(want)
	if err != nil {
		return err
	}
	anothers := func(o object) bool { return o.owner.Network != network }
	unplanned, wanted = slices.DeleteFunc(unplanned, anothers), slices.DeleteFunc(wanted, anothers)
	k.expect(p, unplanned, wanted, false)
	done := k.begin(unplanned, wanted)
	defer done()
	if network == "" {
		k.expectUplinks(want.Uplinks)
		p.setUplinks(want.Uplinks)
	}
	p.links(ctx, unplanned, wanted)
	return errors.Join(p.errs...)
}

// survey looks at every link. What is ours and not planned is somebody's if it was when an
// Apply last spoke of it, before or after the look: he may be about to take it away, or only
// just have made it.
func (p *pass) survey(want *plan.Plan) (unplanned, wanted []object, err error) {
	before := p.kernel.claims()
	if err := p.scene.look(); err != nil {
		return nil, nil, err
	}
	after := p.kernel.claims()
	_, wanted = difference(&plan.Plan{}, want)
	names := map[string]object{}
	for _, o := range wanted {
		names[o.name] = o
	}
	unplanned, err = p.spared(p.unplanned(names))
	for i, o := range unplanned {
		owner, claimed := after[o.name]
		if !claimed {
			owner = before[o.name]
		}
		unplanned[i].owner = owner
	}
	return unplanned, wanted, err
}
