package link

import (
	"context"
	"errors"
	"reflect"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Restore is the layer that puts settings back, of uplinks and of adopted bridges. It
// belongs ahead of the firewall's: what guards an uplink must stand until it forwards
// no longer.
type Restore struct{ Kernel *Kernel }

// Apply puts back what the plan no longer asks for.
func (r Restore) Apply(_ context.Context, have, want *plan.Plan) error {
	if have != nil && reflect.DeepEqual(have.Uplinks, want.Uplinks) && sameNamed(have, want) {
		return nil
	}
	p := &pass{kernel: r.Kernel, mend: true, scene: newScene(r.Kernel)}
	p.restoreFound(want)
	return errors.Join(p.errs...)
}

// Check finds nothing: the Kernel's own does.
func (r Restore) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove does nothing: the Kernel's, which goes before the firewall's, has put back
// everything.
func (r Restore) Remove(context.Context) error { return nil }

// sameNamed reports whether no bridge of a person's choice differs between two plans.
func sameNamed(have, want *plan.Plan) bool {
	for c := range tree.Diff(have.Networks, want.Networks) {
		if c.Old != nil && c.Old.Bridge.Named && (c.New == nil || c.New.Bridge != c.Old.Bridge) {
			return false
		}
	}
	return true
}

func flat(uplinks []plan.Uplink) []foundSetting {
	var all []foundSetting
	for _, u := range uplinks {
		for _, s := range u.Settings {
			all = append(all, foundSetting{link: u.Name, Setting: s})
		}
	}
	return all
}

// setUplinks sets what forwarding needs of the host's other interfaces, in the
// order of the plan: an uplink accepts router advertisements for good before the
// host becomes a router.
func (p *pass) setUplinks(uplinks []plan.Uplink) {
	defer p.noting()()
	for _, u := range flat(uplinks) {
		p.on(plan.Owner{}, u.object(), func() error { return p.setFound(u) })
	}
}

// restoreFound puts found values back where the plan no longer asks for ours.
func (p *pass) restoreFound(want *plan.Plan) {
	defer p.noting()()
	found, err := p.recall()
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	planned := map[string]bool{}
	for _, u := range plannedSettings(want) {
		planned[u.key()] = true
	}
	for _, u := range remembered(found) {
		p.on(plan.Owner{}, u.object(), func() error {
			there, err := exists(settingFile(procSys, u.link, u.Setting))
			if err != nil || there && planned[foundSetting{link: u.link, Setting: u.Setting}.key()] {
				return err
			}
			return p.putBack(u)
		})
	}
}

// plannedSettings are those of links that are not ours, or may not be.
func plannedSettings(want *plan.Plan) []foundSetting {
	uplinks := want.Uplinks
	for _, n := range want.Networks.All() {
		if n.Bridge.Named {
			uplinks = append(uplinks[:len(uplinks):len(uplinks)], plan.Uplink{Name: n.Bridge.Name, Settings: n.Bridge.Settings})
		}
	}
	return flat(uplinks)
}
