package store_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/store"
)

// image is what both files and their copies hold, by name.
type image map[string][]byte

func (h *home) image(t *testing.T) image {
	t.Helper()
	all := image{}
	for _, path := range []string{h.state(), filepath.Join(h.dir, "state.copy"), h.bootDB(), filepath.Join(h.run, "boot.copy")} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = content
	}
	return all
}

// home writes the image where another daemon finds it.
func (i image) home(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	for name, content := range i {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &home{dir, dir, "boot-1"}
}

// with is the image with other content of one file.
func (i image) with(name string, content []byte) image {
	next := image{}
	for n, c := range i {
		next[n] = c
	}
	next[name] = content
	return next
}

// story are saves one after the other, with what each leaves.
func story(t *testing.T) (states []spec.State, images []image) {
	t.Helper()
	h := newHome(t)
	s := h.open(t)
	var state spec.State
	note := func(change func(*spec.State) error) {
		next := state
		if err := change(&next); err != nil {
			t.Fatal(err)
		}
		save(t, s, state, next)
		state = next
		states, images = append(states, state), append(images, h.image(t))
	}
	for n := range 3 {
		note(func(s *spec.State) error { return s.AddNetwork(network(n)) })
		for e := range 4 {
			note(func(s *spec.State) error { return s.AddEndpoint(networkID(n), member(n, e)) })
		}
		note(func(s *spec.State) error { s.RemoveEndpoint(networkID(n), member(n, 2).ID); return nil })
	}
	note(func(s *spec.State) error { s.RemoveNetwork(networkID(1)); return nil })
	closed(t, s)
	return states, images
}

// TestKillBetweenAnyTwoWritesLeavesBeforeOrAfter has each save end after each of its pages:
// what was written is in the page cache, in the order of writing.
func TestKillBetweenAnyTwoWritesLeavesBeforeOrAfter(t *testing.T) {
	states, images := story(t)
	for i := 1; i < len(images); i++ {
		at := images[i-1]
		for _, name := range []string{"state.db", "boot.db", "state.copy", "boot.copy"} {
			for _, next := range pagesInTurn(at[name], images[i][name]) {
				at = at.with(name, next)
				wantOneOf(t, at.home(t), states[i-1], states[i])
			}
		}
	}
}

// pagesInTurn are a file's contents on the way from one to another: its pages in their
// order and then the headers, which are at the first two.
func pagesInTurn(from, to []byte) [][]byte {
	size := os.Getpagesize()
	now := make([]byte, max(len(from), len(to)))
	copy(now, from)
	var all [][]byte
	turn := func(first, last int) {
		for at := first; at < last; at += size {
			end := min(at+size, len(to))
			if at < end && !bytes.Equal(now[at:end], to[at:end]) {
				copy(now[at:end], to[at:end])
				all = append(all, bytes.Clone(now))
			}
		}
	}
	turn(2*size, len(to))
	turn(0, 2*size)
	return all
}

// TestPowerCutAtAnyMomentLeavesBeforeOrAfter is about state.db, which is synced before the
// headers are written and after: any of its sectors may be on the disk by then, and of the
// copy, which is never synced, anything.
func TestPowerCutAtAnyMomentLeavesBeforeOrAfter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	states, images := story(t)
	headers := 2 * os.Getpagesize()
	for i := 1; i < len(images); i++ {
		from, to := images[i-1]["state.db"], images[i]["state.db"]
		for range 4 {
			cut := someSectors(random, from, to, headers)
			if random.IntN(2) == 0 { // the first sync is over
				cut = someSectors(random, append(bytes.Clone(from[:headers]), to[headers:]...), to, 0)
			}
			spare := images[i]["state.copy"]
			spare = spare[:random.IntN(len(spare)+1)]
			h := image{"state.db": cut, "state.copy": spare}.home(t)
			h.boot = "boot-2"
			wantOneOf(t, h, withoutEndpoints(states[i-1]), withoutEndpoints(states[i]))
		}
	}
}

// someSectors takes some of the sectors from there on over from another content.
func someSectors(random *rand.Rand, from, to []byte, first int) []byte {
	const sector = 512
	now := make([]byte, max(len(from), len(to)))
	copy(now, from)
	for at := first; at < len(to); at += sector {
		if random.IntN(2) == 0 {
			end := min(at+sector, len(to))
			copy(now[at:end], to[at:end])
		}
	}
	return now
}

// TestWhateverIsCutOffAFileComesBackFromItsCopy wherever it ends.
func TestWhateverIsCutOffAFileComesBackFromItsCopy(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	states, images := story(t)
	for range 25 {
		i := random.IntN(len(images))
		for _, name := range []string{"state.db", "boot.db"} {
			content := images[i][name]
			wantOneOf(t, images[i].with(name, content[:random.IntN(len(content))]).home(t), states[i])
		}
	}
}

func withoutEndpoints(s spec.State) spec.State {
	next := s
	for id, n := range s.Networks.All() {
		for ep := range n.Endpoints.All() {
			next.RemoveEndpoint(id, ep)
		}
	}
	return next
}

// wantOneOf fails the test unless one of the states comes back, and can be saved to.
func wantOneOf(t *testing.T, h *home, wanted ...spec.State) {
	t.Helper()
	s, err := store.Open(h.dir, h.run, h.boot)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	state := loaded(t, s)
	got, found := text(t, state), false
	for _, want := range wanted {
		found = found || got == text(t, want)
	}
	if !found {
		t.Fatalf("state is %s, want one of %d\n%q", got, len(wanted), s.Notices())
	}
	next := state
	if err := next.AddNetwork(network(77)); err != nil {
		t.Fatal(err)
	}
	save(t, s, state, next)
}
