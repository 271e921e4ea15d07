package link

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Keys of the Memory beside those of settings. A name may have dots in it, so
// whoever asks for a link's addresses names the link.
const (
	// bridge.br-lan is its index, by which it is told from a later one of its name;
	// negative if it was down.
	adoptionKey = "bridge."
	addressKey  = "address." // address.br-lan.172.30.0.1/24: it was not there
	// deliberateKey goes before a setting that differed from the host-wide switch of
	// its family, so that no switching of that is a reason to leave it changed.
	deliberateKey = "deliberate."
)

// foundSetting is one setting of a link that is not ours.
type foundSetting struct {
	link string
	plan.Setting
	deliberate bool
}

// key is the setting's name in the Memory, e.g. ipv4.eth0.forwarding.
func (u foundSetting) key() string {
	key := fmt.Sprintf("ipv%d.%s.%s", u.Family, u.link, u.Name)
	if u.deliberate {
		return deliberateKey + key
	}
	return key
}

// parseKey undoes key. Names of links may have dots in them.
func parseKey(key string) (foundSetting, bool) {
	key, deliberate := strings.CutPrefix(key, deliberateKey)
	family, rest, ok := strings.Cut(key, ".")
	dot := strings.LastIndexByte(rest, '.')
	if !ok || dot < 1 || family != "ipv4" && family != "ipv6" {
		return foundSetting{}, false
	}
	return foundSetting{rest[:dot], plan.Setting{Family: int(family[3] - '0'), Name: rest[dot+1:]}, deliberate}, true
}

// in is the found value, if we changed the setting.
func (u foundSetting) in(found map[string]int) (value int, known bool) {
	u.deliberate = false
	if value, known = found[u.key()]; known {
		return value, true
	}
	u.deliberate = true
	value, known = found[u.key()]
	return value, known
}

func (u foundSetting) object() string {
	if u.link == plan.Everywhere {
		return "host"
	}
	return "link " + u.link
}

// ours is what we set it to, wherever we set it.
func (u foundSetting) ours() int {
	switch u.Name {
	case "accept_ra":
		return 2
	case "disable_ipv6":
		return 0
	}
	return 1
}

// switched reports whether the host-wide switch of the family sets it too, or makes
// others rely on it.
func (u foundSetting) switched() bool {
	return u.link != plan.Everywhere && (u.Name == "forwarding" || u.Name == "accept_ra")
}

func (u foundSetting) hostForwards() (bool, error) {
	value, err := readSetting(plan.Everywhere, plan.Setting{Family: u.Family, Name: "forwarding"})
	return value != 0, err
}

// noting is called before something is set on links that are not ours, and what it returns
// when that is done. What was read of the Memory so far may be outdated.
func (p *pass) noting() (done func()) {
	p.kernel.notes.Lock()
	p.found = nil
	return p.kernel.notes.Unlock
}

// recall reads the Memory once a walk, and anew where something is about to be noted.
func (p *pass) recall() (map[string]int, error) {
	if p.found == nil {
		found, err := p.kernel.found()
		if err != nil {
			return nil, err
		}
		p.found = found
	}
	return p.found, nil
}

// remember notes what was found, unless it is known already.
func (p *pass) remember(key string, value int) error {
	found, err := p.recall()
	if err != nil {
		return err
	}
	if _, known := found[key]; known {
		return nil
	}
	if err := p.kernel.memory.Remember(key, value); err != nil {
		return fmt.Errorf("remember: %w", err)
	}
	found[key] = value
	return nil
}

// forget is nothing that a host would show, so it is no difference. A walk that only
// looks forgets for itself.
func (p *pass) forget(key string) error {
	if _, known := p.found[key]; !known {
		return nil
	}
	delete(p.found, key)
	if !p.mend {
		return nil
	}
	return p.kernel.memory.Forget(key)
}

// forgetLink drops all that is known of a link that there is no longer.
func (p *pass) forgetLink(name string) error {
	found, err := p.recall()
	if err != nil {
		return err
	}
	var keys []string
	for key := range found {
		if u, ok := parseKey(key); ok && u.link == name {
			keys = append(keys, key)
		}
	}
	for _, a := range addedAddresses(found, name) {
		keys = append(keys, noteOf(name, a))
	}
	// The adoption goes last: while it stands, the rest is looked for.
	var errs []error
	for _, key := range append(keys, adoptionKey+name) {
		errs = append(errs, p.forget(key))
	}
	return errors.Join(errs...)
}

// setFound makes a setting of a link that is not ours what we need. It remembers the
// found value before it sets another: whoever is killed in between can still put it
// back.
func (p *pass) setFound(u foundSetting) error {
	got, err := readSetting(u.link, u.Setting)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // vanished since the plan was made; restoreFound forgets it
	}
	if err != nil || got == u.Value {
		return err
	}
	return p.differs(field(u.Setting), strconv.Itoa(u.Value), strconv.Itoa(got), func() error {
		if err := p.rememberSetting(u, got); err != nil {
			return err
		}
		return p.kernel.writeSetting(u.link, u.Setting)
	})
}

func (p *pass) rememberSetting(u foundSetting, got int) error {
	found, err := p.recall()
	if err != nil {
		return err
	}
	if _, known := u.in(found); known {
		return nil
	}
	if u.switched() {
		if u.deliberate, err = u.hostForwards(); err != nil {
			return err
		}
	}
	return p.remember(u.key(), got)
}

// putBack gives a setting its found value, but only where ours still stands. If the
// host forwards by now and did not when we came, an engine that came after us relies
// on the setting, and changing it would cut its containers off.
func (p *pass) putBack(u foundSetting) error {
	got, err := readSetting(u.link, u.Setting)
	if errors.Is(err, fs.ErrNotExist) {
		return p.forget(u.key())
	}
	if err != nil {
		return err
	}
	relied := false
	if u.switched() && !u.deliberate {
		if relied, err = u.hostForwards(); err != nil {
			return err
		}
	}
	if got != u.ours() || got == u.Value || relied {
		return p.forget(u.key())
	}
	return p.differs(field(u.Setting), strconv.Itoa(u.Value), strconv.Itoa(got), func() error {
		if err := p.kernel.writeSetting(u.link, u.Setting); err != nil {
			return err
		}
		return p.forget(u.key())
	})
}

// during holds a setting of a link that is not ours for as long as f runs.
func (p *pass) during(link string, s plan.Setting, f func() error) error {
	if err := p.setFound(foundSetting{link: link, Setting: s}); err != nil {
		return err
	}
	errs := []error{f()}
	for _, u := range remembered(p.found) {
		if u.link == link && u.Family == s.Family && u.Name == s.Name {
			errs = append(errs, p.putBack(u))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) found() (map[string]int, error) {
	found, err := k.memory.Found()
	if err != nil {
		return nil, fmt.Errorf("recall what links were like: %w", err)
	}
	return found, nil
}

// remembered lists the settings that we changed, with the found values, in the order of
// putting back, which is the reverse of that of setting: the host stops being a router
// before an uplink stops accepting advertisements in spite of it.
func remembered(found map[string]int) []foundSetting {
	var all []foundSetting
	for key, value := range found {
		if u, ok := parseKey(key); ok {
			u.Value = value
			all = append(all, u)
		}
	}
	rank := func(u foundSetting) int {
		switch {
		case u.link == plan.Everywhere:
			return 0
		case u.Name == "accept_ra":
			return 2
		}
		return 1
	}
	slices.SortFunc(all, func(a, b foundSetting) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.key(), b.key()))
	})
	return all
}

func noteOf(link string, a netip.Prefix) string { return addressKey + link + "." + a.String() }

// addedAddresses are those that we added to a link that is not ours.
func addedAddresses(found map[string]int, link string) []netip.Prefix {
	var all []netip.Prefix
	for key := range found {
		text, ok := strings.CutPrefix(key, addressKey+link+".")
		if a, err := netip.ParsePrefix(text); ok && err == nil {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}
