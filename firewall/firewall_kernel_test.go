package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/firewall/firewalltest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

var (
	_ engine.Layer = (*Firewall)(nil)
	_ engine.Layer = Retired{}
)

// TestKernelTheChoiceTellsItsReason on a kernel with nf_tables and on one without.
func TestKernelTheChoiceTellsItsReason(t *testing.T) {
	for _, row := range []struct {
		mode    Mode
		without bool   // nf_tables
		path    string // where commands are
		want    string // the choice, or why there is none
	}{
		{Auto, false, "", "nftables (auto: the kernel took a trial of all that it needs; nobody else can change its tables)"},
		{NFTables, false, "", "nftables (as told; nobody else can change its tables)"},
		{IPTables, false, "", "iptables-nft (as told)"},
		{Auto, true, "", "iptables-legacy (auto: nftables refused: open nfnetlink: socket: protocol not supported)"},
		{NFTables, true, "", "use --firewall=iptables"},
		{IPTables, true, "", "iptables-legacy (as told)"},
		{Auto, false, "/nonexistent", "nftables (auto: "},
		{Auto, true, "/nonexistent", "install iptables 1.8 or newer"},
		{IPTables, false, "/nonexistent", "install iptables 1.8 or newer"},
		{None, false, "", "none (as told)"},
		{None, true, "/nonexistent", "none (as told)"},
	} {
		t.Run(fmt.Sprint(row.mode, " ", row.without, " ", row.path), func(t *testing.T) {
			h := lab.NewHost(t)
			before := h.Snapshot()
			if row.path != "" {
				t.Setenv("PATH", row.path)
			}
			do := h.Do
			if row.without {
				do = h.DoWithoutNetfilter
			}
			got := ""
			do(func() {
				f, err := Open(context.Background(), row.mode)
				if err != nil {
					got = err.Error()
					return
				}
				got = f.String()
				if notices := f.Notices(); (len(notices) > 0) != row.without {
					t.Errorf("notices %q", notices)
				}
				f.Close()
			})
			if !strings.Contains(got, row.want) {
				t.Errorf("want %q, got %q", row.want, got)
			}
			if row.path == "" {
				if diff := before.Diff(h.Snapshot()); diff != "" {
					t.Errorf("the choice has changed something (-before +after)\n%s", diff)
				}
			}
		})
	}
}

// machine is a host on which the firewall changes.
type machine struct {
	*lab.Host
	t    *testing.T
	last *Firewall // of the daemon that runs
}

// change is what a daemon does that is started anew. Kind, for iptables, is that of an
// engine's rules.
func (m *machine) change(mode Mode, kind string, want *plan.Plan) *Firewall {
	m.t.Helper()
	for _, other := range []string{"nft", "legacy"} {
		if other == kind {
			m.Run("iptables-"+other, "-t", "nat", "-N", "DOCKER")
			defer m.Run("iptables-"+other, "-t", "nat", "-X", "DOCKER")
		}
	}
	if m.last != nil {
		m.last.Close()
	}
	var f *Firewall
	m.Do(func() {
		var err error
		if f, err = Open(context.Background(), mode); err != nil {
			m.t.Error(err)
			return
		}
		for _, l := range []engine.Layer{f, f.Behind("left-overs", Retired{f})} {
			if err := l.Apply(context.Background(), nil, want); err != nil {
				m.t.Error(err)
			}
		}
	})
	if f == nil {
		m.t.FailNow()
	}
	m.t.Cleanup(f.Close)
	m.last = f
	return f
}

// left are the left-overs that a layer finds.
func (m *machine) left(l engine.Layer, want *plan.Plan) []string {
	m.t.Helper()
	return scene.Drift(m.t, m.Host, l, want)
}

// TestKernelAChangeOfFirewallMeetsNoFlow changes it in every direction while a stream
// goes on through a published port, another from a container to the outside, and new
// ones begin; what is closed stays so.
func TestKernelAChangeOfFirewallMeetsNoFlow(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	w := scene.NewWorld(t).
		Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64", scene.TCP("", 8080, 80, 1))
	p := w.Plan()
	m := machine{t: t}
	town := scene.Settle(t, p, func(h *lab.Host) {
		m.Host = h
		m.change(Auto, "", p)
	})
	town.Neighbour.Route(netip.MustParsePrefix("172.30.0.0/24"), m.Host)
	container := town.Container("a1", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	scene.Serve(t, town.Outside, "outside", "tcp [::]:80")
	var stops []func()
	for what, conn := range map[string]*hello.Conn{
		"a stream through a published port": town.Outside.Dial("tcp", "192.0.2.1:8080"),
		"one of IPv6":                       town.Outside.Dial("tcp", "[2001:db8:1::1]:8080"),
		"a stream to the outside":           container.Dial("tcp", lab.Internet+":80"),
	} {
		stops = append(stops, lab.Steadily(t, what, func() error {
			_, err := conn.Ask(hello.Patience)
			return err
		}))
	}
	stops = append(stops, lab.Steadily(t, "new streams", func() error {
		_, err := town.Outside.Ask("tcp", "192.0.2.1:8080")
		return err
	}), lab.Steadily(t, "what is closed", func() error {
		answer, err := town.Neighbour.AskFor("tcp", "172.30.0.2:81", 100*time.Millisecond)
		if hello.Judge(err) != hello.Drop {
			return fmt.Errorf("%v %w", answer, err)
		}
		return nil
	}))
	nft, ipt, legacy := "nftables", "iptables-nft", "iptables-legacy"
	for _, next := range []string{ipt, legacy, nft, legacy, ipt, nft} {
		mode, kind := IPTables, strings.TrimPrefix(next, "iptables-")
		if next == nft {
			mode, kind = NFTables, ""
		}
		f := m.change(mode, kind, p)
		if f.Name != next {
			t.Fatalf("want %s, got %s", next, f)
		}
		if left := slices.Concat(m.left(f, p), m.left(Retired{f}, p)); len(left) > 0 {
			t.Errorf("%s: not as planned: %q", next, left)
		}
		if all := m.sets(); !slices.Equal(all, []string{next}) {
			t.Errorf("%s: rules of %q", next, all)
		}
	}
	for _, stop := range stops {
		stop()
	}
}

// sets are the firewalls that have rules of ours, by other means than our own.
func (m *machine) sets() []string {
	m.t.Helper()
	var all []string
	for _, tool := range []string{"iptables-nft", "iptables-legacy"} {
		if strings.Contains(m.Run(tool+"-save")+m.Run("ip6"+tool[2:]+"-save"), "DRAWBRIDGE") {
			all = append(all, tool)
		}
	}
	if strings.Contains(m.Run("nft", "list", "tables"), "drawbridge") {
		all = append(all, "nftables")
	}
	return all
}

// TestKernelAChangeOfFirewallThatFailsLeavesTheOldOne until the new one stands.
func TestKernelAChangeOfFirewallThatFailsLeavesTheOldOne(t *testing.T) {
	m := machine{Host: lab.NewHost(t), t: t}
	p := scene.Everything(t).Plan()
	m.change(NFTables, "", p).Close()
	path, broken := os.Getenv("PATH"), t.TempDir()
	for _, name := range []string{"iptables-nft-restore", "ip6tables-nft-restore"} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte("#!/bin/sh\necho no >&2\nexit 4\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", broken+":"+path)
	var f *Firewall
	var opened, failed, waits error
	apply := func() {
		m.Do(func() {
			if f == nil {
				f, opened = Open(context.Background(), IPTables)
			}
			if opened == nil {
				failed = f.Apply(context.Background(), nil, p)
				waits = f.Behind("left-overs", Retired{f}).Apply(context.Background(), nil, p)
			}
		})
	}
	apply()
	if opened != nil {
		t.Fatal(opened)
	}
	t.Cleanup(f.Close)
	if failed == nil || waits == nil || !strings.Contains(waits.Error(), "left-overs: left as found until iptables-nft stands") {
		t.Errorf("the firewall: %v; what waits for it: %v", failed, waits)
	}
	if !slices.ContainsFunc(plan.Leaves(failed), ofEverybody) {
		t.Errorf("whoever comes now is let in: %v", failed)
	}
	if all := m.sets(); !slices.Contains(all, "nftables") {
		t.Errorf("rules of %q", all)
	}
	t.Setenv("PATH", path)
	apply()
	if all := m.sets(); failed != nil || waits != nil || !slices.Equal(all, []string{"iptables-nft"}) {
		t.Errorf("rules of %q; %v, %v", all, failed, waits)
	}
}

// ofEverybody reports whether an engine undoes whichever request meets the error.
func ofEverybody(err error) bool {
	o := (*plan.ObjectError)(nil)
	return !errors.As(err, &o)
}

// TestKernelATrialThatWasCutShortChoosesNothing else than what the kernel has.
func TestKernelATrialThatWasCutShortChoosesNothing(t *testing.T) {
	lab.NewHost(t).Do(func() {
		ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		defer cancel()
		f, err := Open(ctx, Auto)
		if err == nil {
			f.Close()
			t.Fatalf("chose %s", f)
		}
		if want := "a trial of nftables came to no end: "; !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	})
}

// TestKernelWhereNoneIsChosenAllGoes but not before the place of the chosen one is come to.
func TestKernelWhereNoneIsChosenAllGoes(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	m := machine{Host: lab.NewHost(t), t: t}
	m.change(NFTables, "", scene.Everything(t).Plan()).Close()
	m.Run("sh", "-ec", "iptables-nft -t mangle -N DRAWBRIDGE-OLD; ip6tables-legacy -t nat -N DRAWBRIDGE-OLD")
	m.Do(func() {
		f, err := Open(context.Background(), None)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		before := m.sets()
		if err := (Retired{f}).Remove(context.Background()); err != nil || len(m.sets()) != len(before) {
			t.Errorf("of %q it left %q; %v", before, m.sets(), err)
		}
		if err := f.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if all := m.sets(); len(all) > 0 {
		t.Errorf("rules of %q", all)
	}
}

// TestKernelNoneMayBeChosen under containers: what stood goes, behind what it guarded, and
// comes back. SCTP can not be had meanwhile, which only whoever publishes it suffers from.
func TestKernelNoneMayBeChosen(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	m := machine{Host: lab.NewHost(t), t: t}
	without := scene.NewWorld(t).
		Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24").
		Endpoint("a", "e", "172.30.0.2/24", "", scene.TCP("", 8080, 80, 1))
	without.Host.NoFirewall = true
	p := scene.Everything(t).Plan()
	for _, other := range []Mode{NFTables, IPTables} {
		m.change(other, "", p)
		none := m.change(None, "", without.Plan())
		if all := m.sets(); len(all) > 0 || none.String() != "none (as told)" {
			t.Errorf("%s: rules of %q", none, all)
		}
		m.Run("iptables-legacy", "-t", "nat", "-N", "DRAWBRIDGE-OLD")
		if left := m.left(Retired{none}, without.Plan()); len(left) != 1 {
			t.Errorf("what comes back is not named: %q", left)
		}
		m.Run("iptables-legacy", "-t", "nat", "-X", "DRAWBRIDGE-OLD")
	}
	none := m.change(None, "", without.Plan())
	have := without.Plan()
	want := without.Endpoint("a", "f", "172.30.0.3/24", "", scene.SCTP("", 3868, 3868, 1)).Plan()
	err := none.Apply(context.Background(), have, want)
	if o := (*plan.ObjectError)(nil); !errors.As(err, &o) || o.Owner.Endpoint != scene.ID("f") || !strings.Contains(err.Error(), "port 0.0.0.0:3868->3868/sctp: ") {
		t.Errorf("want a failure of its endpoint, got %v", err)
	}
	if drift := m.left(none, want); len(drift) != 1 {
		t.Errorf("drift %q", drift)
	}
	if err := none.Behind("x", none).Apply(context.Background(), want, want); err != nil {
		t.Errorf("others wait for it: %v", err)
	}
}

// TestKernelWhoGetsAPacketWithoutAFirewallIsWhomThePlanNames by the proxy alone.
func TestKernelWhoGetsAPacketWithoutAFirewallIsWhomThePlanNames(t *testing.T) {
	firewalltest.Market(t, firewalltest.Backend{
		Name: firewalltest.None,
		Layer: func(t testing.TB, _ *lab.Host) firewalltest.Applier {
			t.Helper()
			return none{}
		},
	})
}

// TestKernelLeftOversBesideOnesWithoutACommandAreNamed too.
func TestKernelLeftOversBesideOnesWithoutACommandAreNamed(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	m := machine{Host: lab.NewHost(t), t: t}
	p := scene.Everything(t).Plan()
	f := m.change(IPTables, "legacy", p)
	m.Run("sh", "-ec", "iptables-nft -t mangle -N DRAWBRIDGE-OLD; nft add table bridge drawbridge")
	t.Setenv("PATH", t.TempDir())
	got := m.left(Retired{f}, p)
	for _, want := range []string{"iptables-nft rules: want nothing, got rules of ours may be left", "table bridge drawbridge table: want nothing, got present"} {
		if !slices.ContainsFunc(got, func(d string) bool { return strings.HasPrefix(d, want) }) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// TestKernelLeftOversAreLookedForIfSomethingWasWritten and not else.
func TestKernelLeftOversAreLookedForIfSomethingWasWritten(t *testing.T) {
	m := machine{Host: lab.NewHost(t), t: t}
	p := scene.Everything(t).Plan()
	f := m.change(NFTables, "", p)
	for range 2 {
		if left := m.left(Retired{f}, p); len(left) > 0 {
			t.Errorf("left-overs: %q", left)
		}
	}
	m.Do(func() {
		if now, err := f.edition(context.Background(), "iptables-nft"); err != nil || now != f.clean("iptables-nft") {
			t.Errorf("edition %s, clean was %s; %v", now, f.clean("iptables-nft"), err)
		}
	})
	m.Run("iptables-nft", "-t", "mangle", "-N", "DRAWBRIDGE-OLD")
	for range 2 {
		if left := m.left(Retired{f}, p); len(left) != 1 {
			t.Errorf("left-overs: %q", left)
		}
	}
}

// TestKernelLeftOversWithoutACommandAreNamed if they are ours: legacy iptables that we
// could never write is somebody else's.
func TestKernelLeftOversWithoutACommandAreNamed(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	m := machine{Host: lab.NewHost(t), t: t}
	p := scene.Everything(t).Plan()
	f := m.change(NFTables, "", p)
	m.Run("iptables-legacy", "-t", "nat", "-N", "THEIRS")
	m.Run("iptables-nft", "-t", "mangle", "-N", "DRAWBRIDGE-OLD")
	t.Setenv("PATH", t.TempDir())
	if got := m.left(Retired{f}, p); len(got) != 1 || !strings.Contains(got[0], "iptables-nft rules: want nothing, got rules of ours may be left: ") || !strings.Contains(got[0], "install iptables") {
		t.Errorf("left-overs: %q", got)
	}
}

// TestKernelLeftOversAreNamedAndTakenAway also if they come when nobody expects them.
func TestKernelLeftOversAreNamedAndTakenAway(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	p := scene.Everything(t).Plan()
	m := machine{Host: lab.NewHost(t), t: t}
	for _, row := range []struct {
		mode        Mode
		others      string // a script
		drift, left string
	}{
		{NFTables, "iptables-nft -t mangle -N DRAWBRIDGE-OLD", "iptables-nft mangle DRAWBRIDGE-OLD chain: want nothing, got present", "iptables-nft"},
		{NFTables, "ip6tables-legacy -t nat -N DRAWBRIDGE-OLD; ip6tables-legacy -t nat -A OUTPUT -j DRAWBRIDGE-OLD", "ip6tables-legacy nat OUTPUT rule: want nothing, got -j DRAWBRIDGE-OLD", "iptables-legacy"},
		{IPTables, "nft add table bridge drawbridge", "table bridge drawbridge table: want nothing, got present", "nftables"},
	} {
		f := m.change(row.mode, "", p)
		m.Run("sh", "-ec", row.others)
		if all := m.sets(); !slices.Contains(all, row.left) || len(all) != 2 {
			t.Errorf("rules of %q", all)
		}
		if got := m.left(Retired{f}, p); !slices.Contains(got, row.drift) {
			t.Errorf("want %q, got %q", row.drift, got)
		}
		m.Do(func() {
			if err := (Retired{f}).Apply(context.Background(), nil, p); err != nil {
				t.Error(err)
			}
		})
		if left := slices.Concat(m.left(f, p), m.left(Retired{f}, p)); len(left) > 0 {
			t.Errorf("not as planned: %q", left)
		}
		m.Run("sh", "-ec", row.others)
		m.Do(func() {
			for _, l := range []engine.Layer{Retired{f}, f} {
				if err := l.Remove(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
		if all := m.sets(); len(all) > 0 {
			t.Errorf("all is removed, and yet there are rules of %q", all)
		}
	}
}
