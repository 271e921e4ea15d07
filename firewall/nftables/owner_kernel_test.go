package nftables

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// newOwner is a machine whose kernel lets tables be owned.
func newOwner(t testing.TB, h *lab.Host) *machine {
	t.Helper()
	m := newMachine(t, h)
	m.Do(func() {
		if err := m.f.decide(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	if m.f.flags() == 0 {
		t.Skip("the kernel lacks tables that are owned and persist (Linux 6.9)")
	}
	return m
}

// locked fails unless both tables are this machine's.
func (m *machine) locked() {
	m.t.Helper()
	err := m.f.with(context.Background(), func(c *conn) error {
		for _, t := range m.f.tables() {
			s, err := c.find(t)
			if err != nil {
				return err
			}
			if s.flags != flagsOurs || s.owner != c.port {
				m.t.Errorf("%s has flags %#x and belongs to %s", t, s.flags, c.who(s))
			}
		}
		return nil
	})
	if err != nil {
		m.t.Error(err)
	}
}

// TestKernelNobodyElseChangesLockedTables by what people and programs are known to do.
func TestKernelNobodyElseChangesLockedTables(t *testing.T) {
	p := scene.Everything(t).Plan()
	m := newOwner(t, lab.NewHost(t))
	m.apply(nil, p)
	m.locked()
	whole := m.tables()
	m.Feed("table ip theirs { chain c { accept; }; }", "nft", "-f", "-")
	m.Run("nft", "flush", "ruleset")
	if rest := m.Run("nft", "list", "tables"); strings.Contains(rest, "theirs") {
		t.Errorf("what is not ours was not flushed: %s", rest)
	}
	for _, damage := range []string{
		"delete table inet drawbridge", "flush table bridge drawbridge",
		"flush chain inet drawbridge forward", "delete chain inet drawbridge raw",
		"insert rule inet drawbridge forward accept", "add chain inet drawbridge theirs",
		"delete element inet drawbridge ports_any4 { tcp . 8080 }", "flush set inet drawbridge internal",
		"add table inet drawbridge { flags dormant; }",
	} {
		if out, err := m.Try("nft", damage); err == nil {
			t.Errorf("%s: went through: %s", damage, out)
		}
	}
	if diff := cmp.Diff(whole, m.tables()); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
	if drift := m.drift(p); len(drift) > 0 {
		t.Errorf("drift %q", drift)
	}
}

// TestKernelTablesThatWereLeftAreAdoptedAsTheyAre in one transaction, of which packets
// notice nothing.
func TestKernelTablesThatWereLeftAreAdoptedAsTheyAre(t *testing.T) {
	p := scene.Everything(t).Plan()
	h := lab.NewHost(t)
	first, second := newOwner(t, h), newOwner(t, h)
	first.apply(nil, p)
	handles := first.handles()
	first.f.Close()
	before := second.generation()
	second.apply(nil, p)
	if after := second.generation(); after != before+1 {
		t.Errorf("%d transactions, want one", after-before)
	}
	if diff := cmp.Diff(handles, second.handles()); diff != "" {
		t.Errorf("rules were written anew (-before +after)\n%s", diff)
	}
	second.locked()
	// After an error the layer connects anew: the tables must not stay anybody's.
	second.Do(func() {
		if err := second.f.with(context.Background(), func(*conn) error { return errors.New("any") }); err == nil {
			t.Error("want an error")
		}
	})
	second.mustBeRefused("add", "chain", "inet", tableName, "theirs")
	second.locked()
	if diff := cmp.Diff(handles, second.handles()); diff != "" {
		t.Errorf("after an error rules were written anew (-before +after)\n%s", diff)
	}
}

// handles are the tables with the numbers that no other table, chain or rule ever gets.
func (m *machine) handles() string {
	m.t.Helper()
	var lines []string
	for line := range strings.Lines(m.Run("nft", "-a", "list", "table", "inet", tableName) + m.Run("nft", "-a", "list", "table", "bridge", tableName)) {
		if strings.Contains(line, "# handle") && !strings.Contains(line, "table ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func (m *machine) mustBeRefused(args ...string) {
	m.t.Helper()
	if out, err := m.Try("nft", args...); err == nil {
		m.t.Errorf("nft %s went through: %s", strings.Join(args, " "), out)
	}
}

// TestKernelWhatBecameOfTheTablesWhileWeWereAwayIsMended and the tables are ours again.
func TestKernelWhatBecameOfTheTablesWhileWeWereAwayIsMended(t *testing.T) {
	p := scene.Everything(t).Plan()
	saved := script(p)
	for name, c := range map[string]struct{ meanwhile, want string }{
		"the ruleset was flushed":              {"flush ruleset", "table inet drawbridge present: want yes, got no"},
		"the tables were restored from a file": {"flush ruleset\n" + saved, "table inet drawbridge owner: want drawbridge, got nobody"},
		"they were restored with a rule more":  {"flush ruleset\n" + saved + "add rule inet drawbridge forward accept", "chain forward rule 23: want nothing, got another rule"},
		"one was made again, empty":            {"delete table bridge drawbridge\nadd table bridge drawbridge", "table bridge drawbridge owner: want drawbridge, got nobody"},
		"a port was taken out":                 {"delete element inet drawbridge ports_any4 { tcp . 8080 }", "element ports_any4 tcp . 8080 value: want 172.30.0.2 . 80, got nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t)
			first, second := newOwner(t, h), newOwner(t, h)
			first.apply(nil, p)
			whole := first.tables()
			first.f.Close()
			h.Feed(c.meanwhile+"\n", "nft", "-f", "-")
			if drift := second.drift(p); !contains(drift, c.want) {
				t.Errorf("want %q, got %q", c.want, drift)
			}
			second.apply(nil, p)
			second.locked()
			if diff := cmp.Diff(whole, second.tables()); diff != "" {
				t.Errorf("(-before +healed)\n%s", diff)
			}
			if drift := second.drift(p); len(drift) > 0 {
				t.Errorf("drift %q", drift)
			}
		})
	}
}

// TestKernelATableThatWasPutToSleepIsWoken while we were away. The nft of today cannot do
// that to a table that persists.
func TestKernelATableThatWasPutToSleepIsWoken(t *testing.T) {
	p := scene.Everything(t).Plan()
	h := lab.NewHost(t)
	first, others, second := newOwner(t, h), newOwner(t, h), newOwner(t, h)
	first.apply(nil, p)
	handles := first.handles()
	first.f.Close()
	if err := others.f.with(context.Background(), func(c *conn) error {
		err := c.table(unix.NFT_MSG_NEWTABLE, others.f.rules.inet, unix.NFT_TABLE_F_DORMANT|flagPersist)
		return errors.Join(err, c.commit())
	}); err != nil {
		t.Fatal(err)
	}
	if drift := second.drift(p); !contains(drift, "table inet drawbridge dormant: want no, got yes") {
		t.Errorf("drift %q", drift)
	}
	second.apply(nil, p)
	second.locked()
	if diff := cmp.Diff(handles, second.handles()); diff != "" {
		t.Errorf("rules were written anew (-before +after)\n%s", diff)
	}
}

// TestKernelTablesOfAnotherProgramAreNamed with what to do, and are ours when it ends.
func TestKernelTablesOfAnotherProgramAreNamed(t *testing.T) {
	p := scene.Everything(t).Plan()
	h := lab.NewHost(t)
	others, m := newOwner(t, h), newOwner(t, h)
	others.apply(nil, p)
	for what, do := range map[string]func() error{
		"apply":  func() error { return m.f.Apply(context.Background(), nil, p) },
		"remove": func() error { return m.f.Remove(context.Background()) },
	} {
		var err error
		m.Do(func() { err = do() })
		if err == nil || !strings.Contains(err.Error(), "table inet drawbridge is owned by the program behind netlink port ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if drift := m.drift(p); len(drift) != 2 || !strings.HasPrefix(drift[0], "table inet drawbridge owner: want drawbridge, got netlink port ") {
		t.Errorf("drift %q", drift)
	}
	others.locked()
	others.f.Close()
	m.apply(nil, p)
	m.locked()
}

// TestKernelADaemonThatDiesIsWaitedFor before its tables are taken for somebody else's.
func TestKernelADaemonThatDiesIsWaitedFor(t *testing.T) {
	p := scene.Everything(t).Plan()
	for name, do := range map[string]func(m *machine) error{
		"apply":  func(m *machine) error { return m.f.Apply(context.Background(), nil, p) },
		"remove": func(m *machine) error { return m.f.Remove(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t)
			dying, m := newOwner(t, h), newOwner(t, h)
			dying.apply(nil, p)
			begun, done := make(chan struct{}), make(chan error)
			go m.Do(func() {
				close(begun)
				done <- do(m)
			})
			<-begun
			dying.f.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKernelWithoutOwnershipTheTablesAreOrdinary as on Linux before 6.9, also those that
// another version of ours has left.
func TestKernelWithoutOwnershipTheTablesAreOrdinary(t *testing.T) {
	p := scene.Everything(t).Plan()
	h := lab.NewHost(t)
	newer, m := newOwner(t, h), newMachine(t, h, Shared)
	newer.apply(nil, p)
	newer.f.Close()
	m.apply(nil, p)
	if drift := m.drift(p); len(drift) > 0 {
		t.Errorf("what was left: drift %q", drift)
	}
	m.Run("nft", "flush", "ruleset")
	m.apply(nil, p)
	if err := m.f.with(context.Background(), func(c *conn) error {
		s, err := c.find(m.f.rules.inet)
		if s.flags != 0 {
			t.Errorf("flags %#x", s.flags)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	m.f.Close()
	// And the other way: it is no orphan that could be adopted.
	again := newOwner(t, h)
	again.apply(nil, p)
	again.locked()
	if err := again.f.Remove(context.Background()); err != nil {
		t.Error(err)
	}
	if left, err := again.f.Left(context.Background()); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
