package iptables

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	for name, w := range map[string]*scene.World{
		"nothing is planned":                scene.NewWorld(t),
		"a network on a host that forwards": forwards,
		"a network on a host without IPv6":  withoutIPv6,
		"an internal network":               scene.NewWorld(t).Network("a", spec.Network{Internal: true, Masquerade: true}, "172.30.0.0/24"),
		"an internal network kept apart":    scene.NewWorld(t).Network("a", spec.Network{Internal: true, Apart: true}, "172.30.0.0/24"),
		"a bridge that others may be on": scene.NewWorld(t).Network("a", spec.Network{Apart: true, Bridge: "br0"}, "172.30.0.0/24").
			Endpoint("a", "e", "172.30.0.2/24", ""),
		"a network without masquerade":      scene.NewWorld(t).Network("a", spec.Network{}, "172.30.0.0/24"),
		"networks with ports and an engine": scene.Everything(t),
	} {
		t.Run(name, func(t *testing.T) {
			rules, err := render(w.Plan())
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, filepath.Join("testdata", filepath.Base(t.Name())+".txt"), rules.String())
		})
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

func TestANameThatIsAWildcardIsRefused(t *testing.T) {
	w := scene.NewWorld(t).
		Network("a", spec.Network{Bridge: "br+"}, "172.30.0.0/24").
		Network("b", spec.Network{}, "172.30.1.0/24").
		Network("c", spec.Network{Trusted: []string{"eth+"}}, "172.30.2.0/24")
	rules, err := render(w.Plan())
	for _, id := range []string{"a", "c"} {
		if !blames(err, scene.ID(id)) {
			t.Errorf("network %s is not refused: %v", id, err)
		}
	}
	if blames(err, scene.ID("b")) || !strings.Contains(rules.String(), scene.Bridge("b")) || strings.Contains(rules.String(), "+") {
		t.Errorf("want the rules of network b and no others, got %v\n%s", err, rules)
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
	have, err := render(w.Plan())
	if err != nil {
		t.Fatal(err)
	}
	w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 90, 1))
	want, err := render(w.Plan())
	if err != nil {
		t.Fatal(err)
	}
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
