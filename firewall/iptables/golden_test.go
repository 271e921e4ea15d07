package iptables

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestTheRulesForAPlan compares all rules, as they would be fed to iptables-restore.
func TestTheRulesForAPlan(t *testing.T) {
	forwards := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24")
	forwards.Host.Forwarding4, forwards.Host.Forwarding6 = true, true
	withoutIPv6 := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24")
	withoutIPv6.Host.IPv6 = false
	unseen := lan(t)
	unseen.Host.Unseen4, unseen.Host.Unseen6, unseen.Host.Blind = true, true, true
	for name, w := range map[string]*scene.World{
		"nothing is planned":                scene.NewWorld(t),
		"a network on a host that forwards": forwards,
		"a network on a host without IPv6":  withoutIPv6,
		"an internal network":               scene.NewWorld(t).Network("a", spec.Network{Internal: true, Masquerade: true}, "172.30.0.0/24"),
		"an internal network kept apart":    scene.NewWorld(t).Network("a", spec.Network{Internal: true, Apart: true}, "172.30.0.0/24"),
		"a bridge that others may be on":    lan(t),
		"what passes in bridges is unseen":  unseen,
		"a bridge with a LAN behind it":     scene.Lan(t),
		"a network without masquerade":      scene.NewWorld(t).Network("a", spec.Network{}, "172.30.0.0/24"),
		"networks with ports and an engine": scene.Everything(t),
	} {
		t.Run(name, func(t *testing.T) {
			golden.Equal(t, filepath.Join("testdata", filepath.Base(t.Name())+".txt"), render(w.Plan()).String())
		})
	}
}

// lan keeps containers apart on a bridge that others may be on.
func lan(t *testing.T) *scene.World {
	t.Helper()
	return scene.NewWorld(t).Network("a", spec.Network{Apart: true, Bridge: "br0"}, "172.30.0.0/24").
		Endpoint("a", "e", "172.30.0.2/24", "")
}

// TestNoRuleHasBrNetfilterLoaded where a family's hooks are not shown what passes in
// bridges: a rule with physdev would load it, and the whole host's rules would judge that.
func TestNoRuleHasBrNetfilterLoaded(t *testing.T) {
	asked := false
	rapid.Check(t, func(rt *rapid.T) {
		p := scene.RandomPlan(rt)
		host := *p.Host
		host.IPv6, host.Unseen6 = true, rapid.Bool().Draw(rt, "unseen6")
		p.Host = &host
		for at, rules := range render(p) {
			for _, r := range rules {
				asks := strings.Contains(r.text, "physdev")
				asked = asked || asks
				if asks && host.Unseen(at.family) {
					rt.Fatalf("IPv%d %s: %s", at.family, at.chain, r.text)
				}
			}
		}
	})
	if !asked {
		t.Error("no plan had a rule that asks for ports of bridges")
	}
}

// TestRulesOnPortsComeAndGoWithWhatIsSeen and no others do.
func TestRulesOnPortsComeAndGoWithWhatIsSeen(t *testing.T) {
	seen, unseen := lan(t), lan(t)
	unseen.Host.Unseen6 = true
	for come, steps := range map[bool][]step{
		false: difference(render(seen.Plan()), render(unseen.Plan())),
		true:  difference(render(unseen.Plan()), render(seen.Plan())),
	} {
		if len(steps) != 3 {
			t.Errorf("rules come %t: want 3, got %v", come, steps)
		}
		for _, s := range steps {
			if s.at.family != 6 || s.comes() != come || !strings.Contains(s.rule.text, "physdev") {
				t.Errorf("rules come %t: %v", come, s)
			}
		}
	}
}

// String is the ruleset as a person would feed it to iptables-restore and then to
// ip6tables-restore, with tag and reason behind each rule.
func (s ruleset) String() string {
	var b strings.Builder
	for _, family := range []int{4, 6} {
		table := ""
		for _, at := range s.places(family) {
			if at.table != table {
				table = at.table
				fmt.Fprintf(&b, "# IPv%d\n*%s\n", family, table)
			}
			fmt.Fprintf(&b, ":%s\n", at.chain)
			for _, r := range s[at] {
				fmt.Fprintf(&b, "-A %s %s # %s %s\n", at.chain, r.text, r.tag, r.why)
			}
		}
	}
	return b.String()
}

// TestANameThatIsAWildcardIsLeftOut says nothing of an interface rather than of all whose
// names begin so. Those that a person names for us are refused long before.
func TestANameThatIsAWildcardIsLeftOut(t *testing.T) {
	w := scene.NewWorld(t).Network("a", spec.Network{}, "172.30.0.0/24")
	w.Host.Uplinks = append(w.Host.Uplinks, plan.HostLink{Name: "br+", Bridge: true})
	w.Host.Engines = append(w.Host.Engines, plan.HostLink{Name: "docker+"})
	if rules := render(w.Plan()).String(); strings.Contains(rules, "+") {
		t.Error(rules)
	}
}

// blames reports whether one of the joined errors is on a network.
func blames(err error, network spec.ID) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if blames(e, network) {
				return true
			}
		}
		return false
	}
	var object *plan.ObjectError
	return errors.As(err, &object) && object.Owner.Network == network
}

// TestOneMorePortIsOneMoreRule in each family, and so is one less.
func TestOneMorePortIsOneMoreRule(t *testing.T) {
	w := scene.Everything(t)
	have := render(w.Plan())
	w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 90, 1))
	want := render(w.Plan())
	lines := func(steps []step) []string {
		var all []string
		for _, s := range steps {
			all = append(all, s.verb+" "+s.at.chain+" "+s.rule.text)
		}
		return all
	}
	add := []string{
		"-I DRAWBRIDGE-PUBLISH -p tcp -m tcp --dport 9 -j DNAT --to-destination 172.30.0.9:90",
		"-I DRAWBRIDGE-PUBLISH -p tcp -m tcp --dport 9 -j DNAT --to-destination [fd00:30::9]:90",
	}
	if diff := cmp.Diff(add, lines(difference(have, want))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i := range add {
		add[i] = "-D" + strings.TrimPrefix(add[i], "-I")
	}
	if diff := cmp.Diff(add, lines(difference(want, have))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
