package store_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/store"
)

// home is where a test's store lives, and the boot it lives in.
type home struct {
	dir, run, boot string
}

func newHome(t testing.TB) *home {
	t.Helper()
	return &home{filepath.Join(t.TempDir(), "lib"), filepath.Join(t.TempDir(), "run"), "boot-1"}
}

func (h *home) state() string  { return filepath.Join(h.dir, "state.db") }
func (h *home) bootDB() string { return filepath.Join(h.run, "boot.db") }

func (h *home) tryOpen() (*store.Store, error) { return store.Open(h.dir, h.run, h.boot) }

func (h *home) open(t testing.TB) *store.Store {
	t.Helper()
	s, err := h.tryOpen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestDiscardLeavesNoFile(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	save(t, s, spec.State{}, sample(t)) // by a request that came too late
	closed(t, s)
	for _, dir := range []string{h.dir, h.run} {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

func closed(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func save(t testing.TB, s *store.Store, before, after spec.State) {
	t.Helper()
	if err := s.Networks().Save(before, after); err != nil {
		t.Fatal(err)
	}
}

func loaded(t testing.TB, s *store.Store) spec.State {
	t.Helper()
	state, err := s.Networks().Load()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func noNotices(t *testing.T, s *store.Store) {
	t.Helper()
	if n := s.Notices(); len(n) > 0 {
		t.Errorf("notices: %q", n)
	}
}

func wantNotice(t *testing.T, s *store.Store, parts ...string) {
	t.Helper()
	all := strings.Join(s.Notices(), "\n")
	for _, part := range parts {
		if !strings.Contains(all, part) {
			t.Errorf("notices lack %q: %s", part, all)
		}
	}
}

func TestStoreKeepsThePromisesOfIpam(t *testing.T) {
	h := newHome(t)
	var last *store.Store
	ipamtest.TestStore(t, func() ipam.Store {
		if last != nil {
			closed(t, last)
		}
		last = h.open(t)
		return last.Pools()
	})
	noNotices(t, last)
}

func TestBothFilesAreForNobodyElse(t *testing.T) {
	h := newHome(t)
	h.open(t)
	for path, want := range map[string]os.FileMode{h.dir: 0o700, h.run: 0o700, h.state(): 0o600, h.bootDB(): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: mode %o, want %o", path, got, want)
		}
	}
}

func TestAnotherBootForgetsWhatDiesWithTheBoot(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	save(t, s, spec.State{}, sample(t))
	lease := ipam.Lease{Key: ipam.Key{Pool: "p", Addr: netip.MustParseAddr("172.30.0.2")}}
	if err := s.Pools().Save(ipam.Changes{PutPools: []ipam.Pool{{ID: "p", Prefix: netip.MustParsePrefix("172.30.0.0/24")}}, PutLeases: []ipam.Lease{lease}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Settings().Remember("net.ipv4.conf.eth0.forwarding", 0); err != nil {
		t.Fatal(err)
	}
	closed(t, s)

	h.boot = "boot-2"
	s = h.open(t)
	state := loaded(t, s)
	if got := state.Networks.Len(); got != 1 {
		t.Errorf("%d networks, want 1", got)
	}
	for _, n := range state.Networks.All() {
		if got := n.Endpoints.Len(); got != 0 {
			t.Errorf("%d endpoints, want none", got)
		}
	}
	snapshot, err := s.Pools().Load()
	if err != nil || len(snapshot.Pools) != 1 || len(snapshot.Leases) != 0 {
		t.Errorf("pools %v, leases %v, %v; want one pool and no lease", snapshot.Pools, snapshot.Leases, err)
	}
	found, err := s.Settings().Found()
	if err != nil || len(found) != 0 {
		t.Errorf("settings %v, %v; want none", found, err)
	}
	noNotices(t, s)
}

func TestSettingsAreRememberedUntilForgotten(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	for name, value := range map[string]int{"a": 1, "b": 0} {
		if err := s.Settings().Remember(name, value); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Settings().Forget("a"); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, s)
	found, err := h.open(t).Settings().Found()
	if value, there := found["b"]; err != nil || !there || value != 0 || len(found) != 1 {
		t.Errorf("found %v, %v; want b alone, 0", found, err)
	}
}

func TestZonesAreRememberedUntilForgotten(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	for _, b := range [][2]string{{"dbr1", "trusted"}, {"dbr2", "trusted"}, {"dbr2", "drawbridge"}} {
		if err := s.Zones().Remember(b[0], b[1]); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Zones().Forget("dbr1"); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, s)
	s = h.open(t)
	bound, err := s.Zones().Bound()
	if err != nil || bound["dbr2"] != "drawbridge" || len(bound) != 1 {
		t.Errorf("bound %v, %v; want dbr2 alone, to drawbridge", bound, err)
	}
	closed(t, s)
	h.boot = "boot-2"
	if bound, err := h.open(t).Zones().Bound(); err != nil || len(bound) != 0 {
		t.Errorf("bound %v, %v; want none after a boot", bound, err)
	}
}

func TestSecondDaemonIsTurnedAway(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	for _, other := range []*home{h, {h.dir, t.TempDir(), h.boot}, {t.TempDir(), h.run, h.boot}} {
		if _, err := other.tryOpen(); err == nil || !strings.Contains(err.Error(), "another drawbridge is running") {
			t.Errorf("error %v", err)
		}
	}
	closed(t, s)
	h.open(t)
}

func TestDirectoryThatCannotBeWrittenIsNamed(t *testing.T) {
	h := newHome(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(filepath.Join(file, "lib"), h.run, h.boot)
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v, want one that names %s", err, file)
	}
	// A directory of the kernel's, in which nobody can make a file.
	_, err = store.Open("/proc/self", h.run, h.boot)
	if err == nil || !strings.Contains(err.Error(), "/proc/self/state.db") {
		t.Errorf("error %v, want one that names the file", err)
	}
	if errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
}

func TestBootWithoutNameIsRefused(t *testing.T) {
	h := newHome(t)
	if _, err := store.Open(h.dir, h.run, ""); err == nil {
		t.Error("no error")
	}
}
