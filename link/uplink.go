package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// uplinkSetting is one setting of one uplink.
type uplinkSetting struct {
	link string
	plan.Setting
}

// key is the setting's name in the Memory, e.g. ipv4.eth0.forwarding.
func (u uplinkSetting) key() string {
	return fmt.Sprintf("ipv%d.%s.%s", u.Family, u.link, u.Name)
}

// parseKey undoes key. Names of links may have dots in them.
func parseKey(key string) (uplinkSetting, bool) {
	family, rest, ok := strings.Cut(key, ".")
	dot := strings.LastIndexByte(rest, '.')
	if !ok || dot < 1 || family != "ipv4" && family != "ipv6" {
		return uplinkSetting{}, false
	}
	return uplinkSetting{rest[:dot], plan.Setting{Family: int(family[3] - '0'), Name: rest[dot+1:]}}, true
}

func (u uplinkSetting) object() string {
	if u.link == plan.Everywhere {
		return "host"
	}
	return "link " + u.link
}

// ours is what we set it to, wherever we set it.
func (u uplinkSetting) ours() int {
	if u.Name == "accept_ra" {
		return 2
	}
	return 1
}

// Restore is the layer that puts uplinks' settings back. It belongs ahead of the
// firewall's: what guards an uplink must stand until it forwards no longer.
type Restore struct{ Kernel *Kernel }

// Apply puts back what the plan no longer asks for.
func (r Restore) Apply(_ context.Context, have, want *plan.Plan) error {
	if have != nil && reflect.DeepEqual(have.Uplinks, want.Uplinks) {
		return nil
	}
	r.Kernel.mu.Lock()
	defer r.Kernel.mu.Unlock()
	p := &pass{kernel: r.Kernel, mend: true, scene: newScene(r.Kernel)}
	p.restoreUplinks(want.Uplinks)
	return errors.Join(p.errs...)
}

// Check finds nothing: the Kernel's own does.
func (r Restore) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove does nothing: the Kernel's, which goes before the firewall's, has put back
// everything.
func (r Restore) Remove(context.Context) error { return nil }

func flat(uplinks []plan.Uplink) []uplinkSetting {
	var all []uplinkSetting
	for _, u := range uplinks {
		for _, s := range u.Settings {
			all = append(all, uplinkSetting{u.Name, s})
		}
	}
	return all
}

// setUplinks sets what forwarding needs of the host's other interfaces, in the
// order of the plan: an uplink accepts router advertisements for good before the
// host becomes a router.
func (p *pass) setUplinks(uplinks []plan.Uplink) {
	found, err := p.kernel.found()
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	for _, u := range flat(uplinks) {
		p.on(plan.Owner{}, u.object(), func() error {
			_, known := found[u.key()]
			return p.setUplink(u, known)
		})
	}
}

// setUplink remembers the found value before it sets another: whoever is killed in
// between can still put it back.
func (p *pass) setUplink(u uplinkSetting, known bool) error {
	got, err := readSetting(u.link, u.Setting)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // vanished since the plan was made; restoreUplinks forgets it
	}
	if err != nil || got == u.Value {
		return err
	}
	return p.differs(field(u.Setting), strconv.Itoa(u.Value), strconv.Itoa(got), func() error {
		if !known {
			if err := p.kernel.memory.Remember(u.key(), got); err != nil {
				return fmt.Errorf("remember: %w", err)
			}
		}
		return p.kernel.writeSetting(u.link, u.Setting)
	})
}

// restoreUplinks puts found values back where the plan no longer asks for ours.
func (p *pass) restoreUplinks(uplinks []plan.Uplink) {
	found, err := p.kernel.found()
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	planned := map[string]bool{}
	for _, u := range flat(uplinks) {
		planned[u.key()] = true
	}
	for _, u := range remembered(found) {
		p.on(plan.Owner{}, u.object(), func() error {
			got, err := readSetting(u.link, u.Setting)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return p.forgetUplink(u)
			case err != nil || planned[u.key()]:
				return err
			}
			return p.restoreUplink(u, got)
		})
	}
}

// restoreUplink puts a value back only where ours still stands and the host does
// not forward by now: an engine that came after us relies on it then, and turning
// it off would cut its containers off. Of force_forwarding nobody hears then, so it
// goes back all the same.
func (p *pass) restoreUplink(u uplinkSetting, got int) error {
	forwards := 0
	if u.link != plan.Everywhere && u.Name != "force_forwarding" {
		var err error
		if forwards, err = readSetting(plan.Everywhere, plan.Setting{Family: u.Family, Name: "forwarding"}); err != nil {
			return err
		}
	}
	if got != u.ours() || got == u.Value || forwards != 0 {
		return p.forgetUplink(u)
	}
	return p.differs(field(u.Setting), strconv.Itoa(u.Value), strconv.Itoa(got), func() error {
		if err := p.kernel.writeSetting(u.link, u.Setting); err != nil {
			return err
		}
		return p.kernel.memory.Forget(u.key())
	})
}

// forgetUplink is nothing that a host would show, so it is no difference.
func (p *pass) forgetUplink(u uplinkSetting) error {
	if !p.mend {
		return nil
	}
	return p.kernel.memory.Forget(u.key())
}

func (k *Kernel) found() (map[string]int, error) {
	found, err := k.memory.Found()
	if err != nil {
		return nil, fmt.Errorf("recall settings of uplinks: %w", err)
	}
	return found, nil
}

// remembered lists what we changed, with the found values, in the order of putting
// back, which is the reverse of that of setting: the host stops being a router
// before an uplink stops accepting advertisements in spite of it.
func remembered(found map[string]int) []uplinkSetting {
	var all []uplinkSetting
	for key, value := range found {
		if u, ok := parseKey(key); ok {
			u.Value = value
			all = append(all, u)
		}
	}
	rank := func(u uplinkSetting) int {
		switch {
		case u.link == plan.Everywhere:
			return 0
		case u.Name == "accept_ra":
			return 2
		}
		return 1
	}
	slices.SortFunc(all, func(a, b uplinkSetting) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.key(), b.key()))
	})
	return all
}
