package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// machine is a namespace with the layer in it.
type machine struct {
	*lab.Host
	t testing.TB
	f *Firewall
}

func newMachine(t testing.TB, h *lab.Host, options ...Option) *machine {
	t.Helper()
	m := &machine{Host: h, t: t}
	var err error
	h.Do(func() { m.f, err = New(options...) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.f.Close)
	return m
}

// try applies in the machine's namespace, since after an error the layer connects anew.
func (m *machine) try(have, want *plan.Plan) (err error) {
	m.Do(func() { err = m.f.Apply(context.Background(), have, want) })
	return err
}

func (m *machine) apply(have, want *plan.Plan) {
	m.t.Helper()
	if err := m.try(have, want); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) drift(want *plan.Plan) []string {
	m.t.Helper()
	return scene.Drift(m.t, m.Host, m.f, want)
}

// tables are both.
func (m *machine) tables() string {
	m.t.Helper()
	return m.Run("nft", "list", "table", "inet", tableName) + m.Run("nft", "list", "table", "bridge", tableName)
}

// generation counts the transactions of the namespace.
func (m *machine) generation() uint32 {
	m.t.Helper()
	var id uint32
	err := m.f.with(context.Background(), func(c *conn) (err error) {
		id, _, err = c.generation()
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

func TestKernelGoWritesWhatNftReads(t *testing.T) {
	p := scene.Everything(t).Plan()
	byGo, byNft := newMachine(t, lab.NewHost(t), Shared), newMachine(t, lab.NewHost(t), Shared)
	byGo.apply(nil, p)
	byNft.Feed(script(p), "nft", "-f", "-")
	if diff := cmp.Diff(byNft.tables(), byGo.tables()); diff != "" {
		t.Errorf("nft list table, both (-nft +go)\n%s", diff)
	}
	if drift := byNft.drift(p); len(drift) > 0 {
		t.Errorf("nft's table is not ours: %q", drift)
	}
}

func TestKernelApplyingTwiceWritesNothing(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	p := scene.Everything(t).Plan()
	m.apply(nil, p)
	before := m.generation()
	m.apply(nil, p)
	m.apply(p, p)
	m.apply(p, scene.Everything(t).Plan())
	if drift := m.drift(p); len(drift) > 0 {
		t.Errorf("drift %q", drift)
	}
	if after := m.generation(); after != before {
		t.Errorf("%d transactions, want none", after-before)
	}
}

func TestKernelOneChangeIsOneTransaction(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	w := scene.Everything(t)
	have, old := w.Plan(), w.State
	m.apply(nil, have)
	before := m.generation()
	w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 9, 1))
	want := have.Next(old, w.State, have.Host)
	m.apply(have, want)
	if after := m.generation(); after != before+1 {
		t.Errorf("%d transactions, want one", after-before)
	}
}

func TestKernelDamageIsNamedAndHealed(t *testing.T) {
	p := scene.Everything(t).Plan()
	for name, c := range map[string]struct{ damage, want string }{
		"the ruleset was flushed":              {"flush ruleset", "table inet drawbridge present: want yes, got no"},
		"the table was deleted":                {"delete table inet drawbridge", "table inet drawbridge present: want yes, got no"},
		"the table was put to sleep":           {"add table inet drawbridge { flags dormant; }", "table inet drawbridge dormant: want no, got yes"},
		"the table was emptied":                {"flush table inet drawbridge", `chain raw rule 1: want iifname != "lo" ip daddr 127.0.0.0/8 counter drop, got nothing`},
		"a chain was emptied":                  {"flush chain inet drawbridge forward", "chain forward rule 22: want iifname @bridges oifname @engines counter drop, got nothing"},
		"a base chain is gone":                 {"delete chain inet drawbridge raw", "chain raw hook: want filter 0 -300 accept, got nothing"},
		"a rule was added behind ours":         {"add rule inet drawbridge forward accept", "chain forward rule 23: want nothing, got another rule"},
		"a rule was added before ours":         {"insert rule inet drawbridge raw accept", `chain raw rule 1: want iifname != "lo" ip daddr 127.0.0.0/8 counter drop, got another rule`},
		"the bridges' table was deleted":       {"delete table bridge drawbridge", "table bridge drawbridge present: want yes, got no"},
		"the bridges' table was emptied":       {"flush table bridge drawbridge", "bridge chain input rule 1: want iifname @apart meta mark set meta mark | 0x1000, got nothing"},
		"a rule stands before that of bridges": {"insert rule bridge drawbridge forward accept", "bridge chain forward rule 2: want nothing, got another rule"},
		"a bridges' chain was added":           {"add chain bridge drawbridge theirs", "bridge chain theirs hook: want nothing, got none"},
		"a bridges' set was added":             {"add set bridge drawbridge theirs { type mark; }", "bridge set theirs type: want nothing, got mark"},
		"a container is no longer apart":       {"delete element bridge drawbridge apart { dbv666666666666 }", `element apart "dbv666666666666" value: want present, got nothing`},
		"a subnet has another source":          {"delete element inet drawbridge source4 { 172.30.4.0/24 }; add element inet drawbridge source4 { 172.30.4.0/24 : 192.0.2.8 }", "element source4 172.30.4.0/24 value: want 192.0.2.7, got 192.0.2.8"},
		"a range is no longer open":            {"delete element inet drawbridge open4 { 172.30.5.2 . udp . 5000-5010 }", "element open4 172.30.5.2 . udp . 5000-5010 value: want present, got nothing"},
		"a chain's policy became drop":         {"add chain inet drawbridge forward { policy drop; }", "chain forward hook: want filter 2 0 accept, got filter 2 0 drop"},
		"a chain was added":                    {"add chain inet drawbridge theirs", "chain theirs hook: want nothing, got none"},
		"a set was added":                      {"add set inet drawbridge theirs { type mark; }", "set theirs type: want nothing, got mark"},
		"a port is missing":                    {"delete element inet drawbridge ports_any4 { tcp . 8080 }", "element ports_any4 tcp . 8080 value: want 172.30.0.2 . 80, got nothing"},
		"a range is missing":                   {"delete element inet drawbridge ranges_any4 { udp . 5000-5010 }", "element ranges_any4 udp . 5000-5010 value: want 172.30.0.2, got nothing"},
		"a port was added":                     {"add element inet drawbridge ports_any4 { udp . 53 : 172.30.0.9 . 53 }", "element ports_any4 udp . 53 value: want nothing, got 172.30.0.9 . 53"},
		"a port leads elsewhere":               {"delete element inet drawbridge ports_any4 { tcp . 8080 }; add element inet drawbridge ports_any4 { tcp . 8080 : 172.30.0.9 . 80 }", "element ports_any4 tcp . 8080 value: want 172.30.0.2 . 80, got 172.30.0.9 . 80"},
		"a set was emptied":                    {"flush set inet drawbridge internal", `element internal "dbrcccccccccccc" value: want present, got nothing`},
		"a subnet is no longer masqueraded":    {"delete element inet drawbridge masquerade4 { 172.30.1.0/24 }", "element masquerade4 172.30.1.0/24 value: want present, got nothing"},
		"a subnet of somebody is masqueraded":  {"add element inet drawbridge masquerade4 { 10.1.0.0-10.1.0.9 }", "element masquerade4 10.1.0.0-10.1.0.9 value: want nothing, got present"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, lab.NewHost(t), Shared)
			m.apply(nil, p)
			if drift := m.drift(p); len(drift) > 0 {
				t.Errorf("before: drift %q", drift)
			}
			whole := m.tables()
			m.Feed(strings.ReplaceAll(c.damage, "; add", "\nadd")+"\n", "nft", "-f", "-")
			if drift := m.drift(p); !contains(drift, c.want) {
				t.Errorf("want %q, got %q", c.want, drift)
			}
			m.apply(nil, p)
			if diff := cmp.Diff(whole, m.tables()); diff != "" {
				t.Errorf("(-before +healed)\n%s", diff)
			}
		})
	}
}

func contains(lines []string, want string) bool {
	for _, l := range lines {
		if l == want {
			return true
		}
	}
	return false
}

// TestKernelATableThatVanishedBetweenRequestsIsRebuilt once whoever asked knows that it had:
// connections may have begun without it.
func TestKernelATableThatVanishedBetweenRequestsIsRebuilt(t *testing.T) {
	m := newMachine(t, lab.NewHost(t), Shared)
	w := scene.Everything(t)
	have := w.Plan()
	m.apply(nil, have)
	m.Run("nft", "flush", "ruleset")
	want := w.Endpoint("b", "9", "172.30.1.9/24", "", scene.TCP("", 9, 9, 1)).Plan()
	if err := m.try(have, want); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a change of what is gone: %v", err)
	}
	m.apply(nil, want)
	if drift := m.drift(want); len(drift) > 0 {
		t.Errorf("drift %q", drift)
	}
}

func TestKernelRemoveLeavesTheHostAsItWas(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.Feed("table ip theirs { chain c { accept; }; }", "nft", "-f", "-")
	before := m.Snapshot()
	m.apply(nil, scene.Everything(t).Plan())
	for range 2 {
		if err := m.f.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := before.Diff(m.Snapshot()); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
}

func TestKernelTenThousandPortsAreOneTransaction(t *testing.T) {
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/16")
	var ports []spec.Port
	for i := range 10_000 {
		ports = append(ports, scene.TCP("", uint16(2*i+1024), 80, 1))
	}
	w.Endpoint("a", "e", "172.30.0.2/16", "", ports...)
	m := newMachine(t, lab.NewHost(t))
	m.apply(nil, scene.NewWorld(t).Plan()) // by which it knows the kernel
	before, p := m.generation(), w.Plan()
	m.apply(nil, p)
	if after := m.generation(); after != before+1 {
		t.Errorf("%d transactions, want one", after-before)
	}
	if drift := m.drift(p); len(drift) > 0 {
		t.Errorf("%d differences, the first is %s", len(drift), drift[0])
	}
	m.apply(p, scene.NewWorld(t).Plan())
	if drift := m.drift(scene.NewWorld(t).Plan()); len(drift) > 0 {
		t.Errorf("after all went: %d differences, the first is %s", len(drift), drift[0])
	}
}

// TestKernelOneBadElementHarmsOnlyItsOwner plans two networks whose subnets overlap,
// which spec would refuse: whatever else a kernel refuses must look like that.
func TestKernelOneBadElementHarmsOnlyItsOwner(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	p := &plan.Plan{Host: &plan.Host{}}
	for id, subnet := range map[spec.ID]string{"first": "172.30.0.0/24", "second": "172.30.0.0/16", "third": "172.31.0.0/16"} {
		zone := &plan.Zone{Bridge: "dbr" + string(id), Subnets: []plan.Subnet{{Prefix: netip.MustParsePrefix(subnet), Masquerade: true}}}
		p.Networks = p.Networks.With(id, &plan.Network{ID: id, Zone: zone})
	}
	err := m.try(nil, p)
	var object *plan.ObjectError
	if !errors.As(err, &object) || object.Owner != (plan.Owner{Network: "second"}) {
		t.Fatalf("want an error of network second, got %v", err)
	}
	for _, bridge := range []string{"dbrfirst", "dbrthird"} {
		m.Run("nft", "get", "element", "inet", tableName, setBridges, fmt.Sprintf("{ %q }", bridge))
	}
}

// TestKernelWithoutTablesOfBridgesOnlyApartNetworksFail takes away the family, as
// kernels without CONFIG_NF_TABLES_BRIDGE do.
func TestKernelWithoutTablesOfBridgesOnlyApartNetworksFail(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	const unknown = nftables.TableFamily(12) // once DECnet's
	m.f.rules.bridge.kernel.Family = unknown
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24")
	p := w.Plan()
	m.apply(nil, p)
	if drift := m.drift(p); len(drift) > 0 {
		t.Errorf("drift %q, want none as nothing is kept apart", drift)
	}
	old := w.State
	with := p.Next(old, w.Network("b", spec.Network{Apart: true}, "172.30.1.0/24").State, p.Host)
	for range 2 {
		err := m.try(p, with)
		var object *plan.ObjectError
		if !errors.As(err, &object) || object.Owner != (plan.Owner{Network: scene.ID("b")}) || !errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatalf("want an error of network b, got %v", err)
		}
	}
	m.apply(with, p)
	old = w.State
	next := w.Endpoint("a", "e", "172.30.0.2/24", "", scene.TCP("", 1, 1, 1)).State
	if err := m.try(with, with.Next(old, next, p.Host)); err != nil {
		t.Errorf("a port of another network: %v", err)
	}
	if err := m.f.Remove(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestKernelWatchTellsOfOthersChangesOnly(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	ctx, cancel := context.WithCancel(context.Background())
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		m.Do(func() {
			close(ready)
			done <- m.f.Watch(ctx, func() { woken <- struct{}{} })
		})
	}()
	<-ready
	// The first event of another may come before the watch has begun.
	lab.Until(t, "first event", func() error {
		m.Feed("add table ip theirs\nadd chain ip theirs c\n", "nft", "-f", "-")
		m.Feed("delete table ip theirs\n", "nft", "-f", "-")
		if len(woken) == 0 {
			return errors.New("not woken")
		}
		return nil
	})
	drain(woken)
	p := scene.Everything(t).Plan()
	m.apply(nil, p)
	m.apply(p, scene.NewWorld(t).Plan())
	m.Do(func() { _ = m.f.with(ctx, func(*conn) error { return errors.New("any") }) }) // it connects and claims anew
	m.apply(nil, p)
	if err := m.f.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	// Events come in order: after one of another, ours have passed.
	m.Feed("add table ip theirs\n", "nft", "-f", "-")
	<-woken
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
	if n := len(woken); n > 0 {
		t.Errorf("woken %d times by our own changes", n)
	}
}

func drain(c chan struct{}) {
	for len(c) > 0 {
		<-c
	}
}

// TestKernelHowAPlanWasReachedDoesNotMatter walks through random plans step by
// step; what stands at the end is what looking alone would have made.
func TestKernelHowAPlanWasReachedDoesNotMatter(t *testing.T) {
	walked, looked := newMachine(t, lab.NewHost(t)), newMachine(t, lab.NewHost(t))
	rapid.Check(t, func(rt *rapid.T) {
		var have *plan.Plan
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			want := scene.RandomPlan(rt)
			if have != nil && !rapid.Bool().Draw(rt, "remembers") {
				have = nil
			}
			walked.apply(have, want)
			have = want
			known := walked.drift(have)
			walked.f.known = nil
			if seen := walked.drift(have); len(known) > 0 || len(seen) > 0 {
				rt.Fatalf("drift %q as is known, %q as is seen", known, seen)
			}
		}
		looked.apply(nil, have)
		if drift := walked.drift(have); len(drift) > 0 {
			rt.Fatalf("drift %q", drift)
		}
		if drift := looked.drift(have); len(drift) > 0 {
			rt.Fatalf("looking alone: drift %q", drift)
		}
	})
}
