package nftables

import (
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// clean fails on any drift, and is the look that tells.
func (m *machine) clean(look func() []string) *known {
	m.t.Helper()
	if drift := look(); len(drift) > 0 {
		m.t.Errorf("drift %q", drift)
	}
	return m.f.known
}

// TestKernelWhatNobodyCanHaveChangedIsNotReadAgain whether the tables are locked, or
// shared and nobody has written.
func TestKernelWhatNobodyCanHaveChangedIsNotReadAgain(t *testing.T) {
	for name, options := range map[string][]Option{"locked": nil, "shared": {Shared}} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, lab.NewHost(t), options...)
			w := scene.Everything(t)
			have := w.Plan()
			m.apply(nil, have)
			check := func() []string { return m.drift(have) }
			first := m.clean(check)
			if first == nil {
				t.Fatal("a look without drift is forgotten")
			}
			old := w.State
			want := have.Next(old, w.Endpoint("a", "9", "172.30.0.9/24", "fd00:30::9/64", scene.TCP("", 9, 9, 1)).State, have.Host)
			if drift := m.drift(want); len(drift) != len(difference(have, want).add) {
				t.Errorf("what is wanted and missing: drift %q", drift)
			}
			m.apply(have, want)
			have = want
			if m.clean(check) != first {
				t.Error("read again after a change of ours")
			}
			m.apply(nil, have)
			if m.clean(check) != first {
				t.Error("read again to change nothing")
			}
			m.Feed("add table ip theirs\n", "nft", "-f", "-")
			if again := m.clean(check) != first; again != (m.f.flags() == 0) {
				t.Errorf("after a change of another table: read again: %t", again)
			}
		})
	}
}

// TestKernelWhatIsKnownIsForgottenWithTheConnection since nobody guards the tables for
// the moment between two.
func TestKernelWhatIsKnownIsForgottenWithTheConnection(t *testing.T) {
	m := newOwner(t, lab.NewHost(t))
	p := scene.Everything(t).Plan()
	m.apply(nil, p)
	m.clean(func() []string { return m.drift(p) })
	m.f.Close()
	m.Run("nft", "delete", "element", "inet", tableName, "ports_any4", "{ tcp . 8080 }")
	if drift := m.drift(p); !contains(drift, "element ports_any4 tcp . 8080 value: want 172.30.0.2 . 80, got nothing") {
		t.Errorf("drift %q", drift)
	}
}
