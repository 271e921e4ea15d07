package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

func (m *machine) drift(want *plan.Plan) []string {
	m.t.Helper()
	return scene.Drift(m.t, m.Host, m.f, want)
}

func (m *machine) remove() {
	m.t.Helper()
	var err error
	m.Do(func() { err = m.f.Remove(context.Background()) })
	if err != nil {
		m.t.Fatal(err)
	}
}

// ours is whatever iptables prints of ours, of both families.
func (m *machine) ours() string {
	m.t.Helper()
	var lines []string
	for _, family := range []int{4, 6} {
		for line := range strings.Lines(m.Run(m.f.command(family) + "-save")) {
			if strings.Contains(line, "DRAWBRIDGE-") {
				lines = append(lines, strings.TrimSuffix(strings.TrimSpace(line), " [0:0]"))
			}
		}
	}
	slices.Sort(lines) // tables come in the order in which they were made; rules are judged by drift
	return strings.Join(lines, "\n")
}

// record puts between us and the commands scripts that note how they are called and
// what they are told.
func record(t *testing.T, kind string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, family := range []string{"iptables-", "ip6tables-"} {
		for _, what := range []string{"", "-save", "-restore"} {
			name := family + kind + what
			path, err := exec.LookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\n", name, log)
			if what == "-restore" {
				script += "tee -a " + log + " | "
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script+path+" \"$@\"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, _ := os.ReadFile(log) // none where nothing was called
		_ = os.Remove(log)
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
}

func TestKernelApplyingTwiceWritesNothing(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		h := lab.NewHost(t)
		calls := record(t, kind)
		m := newMachine(t, h, kind)
		p := scene.Everything(t).Plan()
		m.apply(nil, p)
		if drift := m.drift(p); len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
		calls()
		m.apply(p, p)
		m.apply(p, scene.Everything(t).Plan())
		if got := calls(); got[0] != "" {
			t.Errorf("nothing has changed, and yet there was run: %q", got)
		}
		m.apply(nil, p)
		want := []string{"iptables-" + kind + "-save", "ip6tables-" + kind + "-save"}
		if diff := cmp.Diff(want, calls()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestKernelARequestWritesItsOwnRulesOnly adds a port, and then two, to many.
func TestKernelARequestWritesItsOwnRulesOnly(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		h := lab.NewHost(t)
		calls := record(t, kind)
		m := newMachine(t, h, kind)
		w := scene.Everything(t)
		first := w.Plan()
		m.apply(nil, first)
		second := w.Endpoint("b", "9", "172.30.1.9/24", "", scene.TCP("", 9500, 9500, 11)).Plan()
		calls()
		m.apply(first, second)
		if got := calls(); len(got) != 1 || !strings.HasPrefix(got[0], "iptables-"+kind+" -t nat -I DRAWBRIDGE-PUBLISH ") || !strings.Contains(got[0], " --dport 9500:9510 ") {
			t.Errorf("want one command for one range, got %q", got)
		}
		third := w.Endpoint("b", "1", "172.30.1.8/24", "", scene.TCP("", 90, 90, 1), scene.UDP("127.0.0.1", 91, 92, 1)).Plan()
		m.apply(second, third)
		got := calls()
		if len(got) != 5 || got[1] != "*nat" || !strings.Contains(got[2], " --dport 91 ") || !strings.Contains(got[3], " --dport 90 ") || got[4] != "COMMIT" {
			t.Errorf("want two rules at once, got %q", got)
		}
		if drift := m.drift(third); len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
		m.apply(third, first)
		if drift := m.drift(first); len(drift) > 0 {
			t.Errorf("after all went again: drift %q", drift)
		}
	})
}

func TestKernelDamageIsNamedAndHealed(t *testing.T) {
	const dropsNothing = "-o dbraaaaaaaaaaaa -g DRAWBRIDGE-IN"
	p := scene.Everything(t).Plan()
	for name, row := range map[string]struct{ damage, want string }{
		"a table was flushed":                 {"4 -t mangle -F", "4 mangle FORWARD rule: want -j DRAWBRIDGE-FORWARD, got nothing"},
		"the other family's table":            {"6 -t mangle -F", "6 mangle DRAWBRIDGE-IN rule: want -j DROP, got nothing"},
		"a chain was emptied":                 {"4 -t mangle -F DRAWBRIDGE-FORWARD", "4 mangle DRAWBRIDGE-FORWARD rule: want " + dropsNothing + ", got nothing"},
		"a chain is gone":                     {"4 -t raw -F; 4 -t raw -X", "4 raw DRAWBRIDGE-RAW chain: want present, got nothing"},
		"a jump is gone":                      {"4 -t raw -D PREROUTING 1", "4 raw PREROUTING rule: want -j DRAWBRIDGE-RAW, got nothing"},
		"somebody's rule stands ahead":        {"4 -t mangle -I FORWARD -i eth9 -j ACCEPT", "4 mangle FORWARD rule: want -j DRAWBRIDGE-FORWARD, got nothing"},
		"an engine's masquerade stands ahead": {"4 -t nat -I POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "4 nat POSTROUTING rule: want -j DRAWBRIDGE-POSTROUTING, got nothing"},
		"a jump is there twice":               {"4 -t nat -I OUTPUT -j DRAWBRIDGE-PUBLISH", "4 nat OUTPUT rule: want nothing, got -j DRAWBRIDGE-PUBLISH"},
		"somebody jumps into our chain":       {"4 -t mangle -N THEIRS; 4 -t mangle -A THEIRS -j DRAWBRIDGE-OPEN", "4 mangle THEIRS rule: want nothing, got -j DRAWBRIDGE-OPEN"},
		"a rule was added ahead of ours":      {"4 -t mangle -I DRAWBRIDGE-IN -j ACCEPT", "4 mangle DRAWBRIDGE-IN rule: want nothing, got -j ACCEPT"},
		"a rule was added behind ours":        {"6 -t nat -A DRAWBRIDGE-PUBLISH -p udp -m udp --dport 53 -j RETURN", "6 nat DRAWBRIDGE-PUBLISH rule: want nothing, got -p udp -m udp --dport 53 -j RETURN"},
		"a port is missing":                   {"4 -t nat -D DRAWBRIDGE-PUBLISH 7", "4 nat DRAWBRIDGE-PUBLISH rule: want -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.30.0.2:80, got nothing"},
		"a rule was replaced":                 {"4 -t mangle -R DRAWBRIDGE-OUT 4 -j RETURN", "4 mangle DRAWBRIDGE-OUT rule: want -m conntrack --ctstate INVALID -j DROP, got nothing"},
		"a chain was added":                   {"4 -t mangle -N DRAWBRIDGE-OLD; 4 -t mangle -A DRAWBRIDGE-OLD -j DROP; 4 -t mangle -A INPUT -j DRAWBRIDGE-OLD", "4 mangle DRAWBRIDGE-OLD chain: want nothing, got present"},
		"a chain was added and ours leads on": {"6 -t nat -N DRAWBRIDGE-OLD; 6 -t nat -I DRAWBRIDGE-ENTER -j DRAWBRIDGE-OLD", "6 nat DRAWBRIDGE-OLD chain: want nothing, got present"},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, kind string) {
				t.Parallel()
				m := newMachine(t, lab.NewHost(t), kind)
				m.apply(nil, p)
				whole := m.ours()
				for command := range strings.SplitSeq(row.damage, "; ") {
					family, args, _ := strings.Cut(command, " ")
					m.Run(m.command(family), strings.Fields(args)...)
				}
				want := m.command(row.want[:1]) + row.want[1:]
				if drift := m.drift(p); !slices.Contains(drift, want) {
					t.Errorf("want %q, got %q", want, drift)
				}
				m.apply(nil, p)
				if drift := m.drift(p); len(drift) > 0 {
					t.Errorf("healed, and yet there is drift: %q", drift)
				}
				if diff := cmp.Diff(whole, m.ours()); diff != "" {
					t.Errorf("(-before +healed)\n%s", diff)
				}
			})
		})
	}
}

// command is that of a family, "4" or "6".
func (m *machine) command(family string) string { return m.f.command(int(family[0] - '0')) }

// TestKernelAnAcceptUnderOurCommentIsNotOurs makes an accept of the last drop.
func TestKernelAnAcceptUnderOurCommentIsNotOurs(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		p := scene.Everything(t).Plan()
		m.apply(nil, p)
		m.Feed("*mangle\n-F DRAWBRIDGE-OPEN\n"+accepts(m.Run(m.f.command(4), "-t", "mangle", "-S", chainOpen))+"COMMIT\n", m.f.command(4)+"-restore", "--noflush")
		want := m.f.command(4) + " mangle DRAWBRIDGE-OPEN rule: want -j DROP, got nothing"
		if drift := m.drift(p); !slices.Contains(drift, want) {
			t.Errorf("want %q, got %q", want, drift)
		}
		m.apply(nil, p)
		if drift := m.drift(p); len(drift) > 0 {
			t.Errorf("healed, and yet there is drift: %q", drift)
		}
	})
}

// accepts are a chain's rules with each drop turned into an accept.
func accepts(chain string) string {
	_, rules, _ := strings.Cut(chain, "\n") // without -N
	return strings.ReplaceAll(rules, "-j DROP", "-j ACCEPT")
}

// TestKernelAJumpThatWasMovedIsLeftThere where its place makes no difference.
func TestKernelAJumpThatWasMovedIsLeftThere(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		p := scene.Everything(t).Plan()
		m.apply(nil, p)
		for _, chain := range []string{"PREROUTING", "OUTPUT"} {
			m.Run(m.f.command(4), "-t", "nat", "-I", chain, "-p", "tcp", "--dport", "443", "-j", "RETURN")
		}
		if drift := m.drift(p); len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
	})
}

// TestKernelRulesThatVanishedBetweenRequestsComeBack once whoever asked knows that they had:
// connections may have begun without them.
func TestKernelRulesThatVanishedBetweenRequestsComeBack(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		w := scene.Everything(t)
		have := w.Plan()
		m.apply(nil, have)
		for _, table := range tables() {
			m.Run(m.f.command(4), "-t", table, "-F")
			m.Run(m.f.command(4), "-t", table, "-X")
		}
		want := w.Endpoint("b", "9", "172.30.1.9/24", "", scene.TCP("", 9, 9, 1)).Plan()
		if m.try(have, want) == nil {
			t.Error("a change of what is gone is no error")
		}
		m.apply(nil, want)
		if drift := m.drift(want); len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
	})
}

// TestKernelRemoveLeavesTheHostAsItWas begins with what others have in each table.
func TestKernelRemoveLeavesTheHostAsItWas(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		m.remove() // nothing is there
		for _, family := range []int{4, 6} {
			for table, chains := range map[string][]string{
				"raw": {"PREROUTING"}, "mangle": {"FORWARD", "OUTPUT"}, "nat": {"PREROUTING", "OUTPUT", "POSTROUTING"},
			} {
				for _, chain := range chains {
					m.Run(m.f.command(family), "-t", table, "-A", chain, "-p", "udp", "-j", "ACCEPT")
				}
			}
		}
		before := m.Snapshot()
		m.apply(nil, scene.Everything(t).Plan())
		for range 2 {
			m.remove()
		}
		if diff := before.Diff(m.Snapshot()); diff != "" {
			t.Errorf("(-before +after)\n%s", diff)
		}
	})
}

// TestKernelLookingMakesNoTable since each is a hook that every packet passes.
// TestKernelRemoveLeavesNoHookThatNobodyUses with iptables-nft. Chains with a rule or a
// policy of somebody's stay, even if he came after us.
func TestKernelRemoveLeavesNoHookThatNobodyUses(t *testing.T) {
	m := newMachine(t, lab.NewHost(t), NFT)
	m.Run("iptables-nft", "-t", "mangle", "-P", "FORWARD", "DROP")
	m.apply(nil, scene.Everything(t).Plan())
	m.Run("ip6tables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
	m.remove()
	var hooks []string
	for line := range strings.Lines(m.Run("nft", "list", "chains")) {
		if line, _, isHook := strings.Cut(strings.TrimSpace(line), " priority"); isHook || strings.HasPrefix(line, "table") {
			hooks = append(hooks, line)
		}
	}
	want := []string{
		"table ip raw {",
		"table ip mangle {", "type filter hook forward",
		"table ip nat {",
		"table ip6 mangle {",
		"table ip6 nat {", "type nat hook output",
	}
	slices.Sort(hooks) // tables come in the order in which they were made
	slices.Sort(want)
	if diff := cmp.Diff(want, hooks); diff != "" {
		t.Errorf("tables and hooks (-want +got)\n%s", diff)
	}
}

func TestKernelLookingMakesNoTable(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		before := m.Snapshot()
		if drift := m.drift(scene.Everything(t).Plan()); len(drift) == 0 {
			t.Error("want drift")
		}
		m.remove()
		if diff := before.Diff(m.Snapshot()); diff != "" {
			t.Errorf("(-before +after)\n%s", diff)
		}
	})
}

// TestKernelOneBadRuleHarmsOnlyItsOwner plans a source of the other family, which
// spec would refuse: whatever else iptables refuses must look like that.
func TestKernelOneBadRuleHarmsOnlyItsOwner(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		m := newMachine(t, lab.NewHost(t), kind)
		p := &plan.Plan{Host: &plan.Host{}}
		for id, source := range map[spec.ID]string{"first": "192.0.2.7", "second": "2001:db8:1::7", "third": "192.0.2.8"} {
			subnet := netip.MustParsePrefix(map[spec.ID]string{"first": "172.30.0.0/24", "second": "172.30.1.0/24", "third": "172.30.2.0/24"}[id])
			zone := &plan.Zone{Bridge: "dbr" + string(id), Subnets: []plan.Subnet{{Prefix: subnet, Masquerade: true, Source: netip.MustParseAddr(source)}}}
			p.Networks = p.Networks.With(id, &plan.Network{ID: id, Zone: zone})
		}
		if err := m.try(nil, p); !blames(err, "second") || blames(err, "first") || blames(err, "third") || blames(err, "") {
			t.Fatalf("want an error of network second alone, got %v", err)
		}
		want := []string{m.f.command(4) + " nat DRAWBRIDGE-POSTROUTING rule: want -s 172.30.1.0/24 -j SNAT --to-source 2001:db8:1::7, got nothing"}
		if diff := cmp.Diff(want, m.drift(p)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestKernelHowAPlanWasReachedDoesNotMatter walks through random plans step by
// step; what stands at the end is what looking alone would have made.
func TestKernelHowAPlanWasReachedDoesNotMatter(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		walked, looked := newMachine(t, lab.NewHost(t), kind), newMachine(t, lab.NewHost(t), kind)
		rapid.Check(t, func(rt *rapid.T) {
			var have *plan.Plan
			for range rapid.IntRange(1, 4).Draw(rt, "steps") {
				want := scene.RandomPlan(rt)
				if have != nil && !rapid.Bool().Draw(rt, "remembers") {
					have = nil
				}
				walked.apply(have, want)
				have = want
			}
			looked.apply(nil, have)
			if drift := walked.drift(have); len(drift) > 0 {
				rt.Fatalf("drift %q", drift)
			}
			if diff := cmp.Diff(looked.ours(), walked.ours()); diff != "" {
				rt.Fatalf("(-looked +walked)\n%s", diff)
			}
		})
	})
}

func TestKernelTheKindThatAnEngineUsesIsFound(t *testing.T) {
	for engine, want := range map[string]string{"": NFT, NFT: NFT, Legacy: Legacy} {
		h := lab.NewHost(t)
		if engine != "" {
			h.Run("iptables-"+engine, "-t", "nat", "-N", "DOCKER")
		}
		h.Do(func() {
			f, err := Find(context.Background())
			if err != nil || f.Kind() != want {
				t.Errorf("an engine uses %q: want %s, got %v %v", engine, want, f, err)
			}
		})
	}
}

func TestKernelWatchTellsOfDamage(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		m := newMachine(t, lab.NewHost(t), kind)
		m.apply(nil, scene.Everything(t).Plan())
		woken := m.watch()
		for _, damage := range []string{"-t raw -F", "-t mangle -I FORWARD -i eth9 -j ACCEPT", "-t nat -D DRAWBRIDGE-PUBLISH 1"} {
			m.Run(m.f.command(4), strings.Fields(damage)...)
			lab.Until(t, "woken by "+damage, func() error {
				if len(woken) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			<-woken
		}
	})
}

// TestKernelWatchTellsOfTheSameDamageAgain though it was mended between two looks.
func TestKernelWatchTellsOfTheSameDamageAgain(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		m := newMachine(t, lab.NewHost(t), kind)
		want := scene.Everything(t).Plan()
		m.apply(nil, want)
		woken := m.watch()
		for range 2 {
			m.Run(m.f.command(4), "-t", "raw", "-F")
			select {
			case <-woken:
			case <-time.After(time.Minute):
				t.Fatal("not woken")
			}
			m.apply(nil, want)
		}
	})
}

// watch watches until the test ends, and returns what is sent to at each wake but the
// first, which is for what happened before.
func (m *machine) watch() <-chan struct{} {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		m.Do(func() { done <- m.f.Watch(ctx, func() { woken <- struct{}{} }) })
	}()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Error(err)
		}
	})
	<-woken
	return woken
}

// TestKernelOurOwnDoingWakesNobody but what somebody did meanwhile does.
func TestKernelOurOwnDoingWakesNobody(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		m := newMachine(t, lab.NewHost(t), kind)
		w := scene.Everything(t)
		have := w.Plan()
		m.apply(nil, have)
		woken := m.watch()
		want := w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 90, 1)).Plan()
		m.apply(have, want)
		select {
		case <-woken:
			t.Error("woken by what we did ourselves")
		case <-time.After(pollEvery + time.Second): // a poll at least
		}
		m.Run(m.f.command(4), "-t", "raw", "-F")
		m.apply(want, w.Endpoint("a", "4", "172.30.0.8/24", "fd00:30::8/64", scene.TCP("", 8, 80, 1)).Plan())
		select {
		case <-woken:
		case <-time.After(time.Minute):
			t.Error("not woken by what somebody did just before we did something else")
		}
	})
}
