package iptables

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// withoutFeatures puts between us and the commands scripts that refuse as those of an older
// kernel do: the whole transaction, or the one rule. They may do so a number of times only.
func withoutFeatures(t *testing.T, kind string, times int) {
	t.Helper()
	dir := t.TempDir()
	for _, family := range []string{"iptables-", "ip6tables-"} {
		for _, what := range []string{"", "-restore"} {
			name := family + kind + what
			path, err := exec.LookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf(`#!/bin/sh
told="$*"
case %q in -restore) told=$(cat) ;; esac
if echo "$told" | grep -Eq 'NETMAP|:[0-9]+-[0-9]+/[0-9]+' && echo >>%[2]s/refused && [ $(wc -l <%[2]s/refused) -le %[3]d ]; then
	echo "iptables: RULE_APPEND failed (No such file or directory)" >&2
	exit 4
fi
echo "$told" | %[4]s "$@"
`, what, dir, times, path)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestKernelWhatIsRefusedForAMomentIsNotLacking as where somebody deletes the chain amid a
// mend: the transaction fails, and the rule alone.
func TestKernelWhatIsRefusedForAMomentIsNotLacking(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		h := lab.NewHost(t)
		withoutFeatures(t, kind, 2)
		m := newMachine(t, h, kind)
		w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24")
		w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}
		want := w.Plan()
		if m.try(nil, want) == nil {
			t.Error("what was refused is no error")
		}
		m.apply(nil, want)
		if drift, notices := m.drift(want), m.f.Notices(); len(drift) > 0 || len(notices) > 0 {
			t.Errorf("drift %q, notices %q", drift, notices)
		}
		if rules := m.ours(); !strings.Contains(rules, "-j NETMAP") || strings.Contains(rules, "DRAWBRIDGE-TRIAL") {
			t.Errorf("the rules are\n%s", rules)
		}
	})
}

func TestKernelWhatTheKernelLacksIsDoneWithout(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		h := lab.NewHost(t)
		withoutFeatures(t, kind, 1000)
		m := newMachine(t, h, kind)
		w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64")
		bare := w.Plan()
		m.apply(nil, bare)
		before := m.ours()
		w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}}
		want := w.Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 7000, 9000, 3)).Plan()
		if m.try(bare, want) == nil {
			t.Error("what the kernel lacks is no error")
		}
		m.apply(nil, want) // as whoever was told of that does
		if drift := m.drift(want); len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
		for _, text := range []string{
			"--dport 7002 ", "--to-destination 172.30.0.2:9002", "--to-destination [fd00:30::2]:9002", "-s 172.17.0.0/16 ", "-j ACCEPT",
		} {
			if !strings.Contains(m.ours(), text) {
				t.Errorf("want %q in\n%s", text, m.ours())
			}
		}
		if notices := m.f.Notices(); len(notices) != 2 {
			t.Errorf("want a notice for each of two features, got %q", notices)
		}
		m.apply(want, bare)
		if after := m.ours(); after != before {
			t.Errorf("what came and went has left\n%s\nwant\n%s", after, before)
		}
	})
}

// TestKernelNothingIsMissedHere says of this kernel that it has all.
func TestKernelNothingIsMissedHere(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		m.apply(nil, scene.Everything(t).Plan())
		if notices := m.f.Notices(); len(notices) > 0 {
			t.Errorf("notices %q", notices)
		}
	})
}
