package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// FuzzStateFile writes over a piece of a sound file and cuts it off, and of its copy too
// where both is set: it is refused in words, or what comes of it can be worked with.
func FuzzStateFile(f *testing.F) {
	f.Add(uint32(0), []byte{}, uint32(1<<20), false)
	f.Add(uint32(16), []byte{0xed, 0xda, 0x0c, 0xed, 9}, uint32(1<<20), true)
	f.Add(uint32(4096+64), []byte(strings.Repeat("\xff", 16)), uint32(1<<20), true)
	f.Add(uint32(3*4096), []byte(`{"schema":99}`), uint32(4*4096), true)
	f.Add(uint32(5*4096+8), []byte{2, 0, 0xff, 0xff}, uint32(7*4096+1), true)
	sound := picture(f, filled(f))
	f.Fuzz(func(t *testing.T, at uint32, piece []byte, length uint32, both bool) {
		for _, path := range files() {
			h := sound.restore(t)
			damaged := []string{path(h)}
			if both {
				damaged = append(damaged, strings.TrimSuffix(path(h), ".db")+".copy")
			}
			for _, file := range damaged {
				rewrite(t, file, func(text []byte) []byte {
					if int(at) < len(text) {
						copy(text[at:], piece)
					}
					return text[:min(len(text), int(length))]
				})
			}
			s, err := h.tryOpen()
			if err != nil {
				if _, gone := os.Stat(path(h)); gone != nil {
					t.Errorf("refused, and taken away: %v", err)
				}
				continue
			}
			before := loaded(t, s)
			save(t, s, before, spec.State{})
			save(t, s, spec.State{}, sample(t))
			wantState(t, s, sample(t))
			closed(t, s)
		}
	})
}

// original is a closed store, and a place in memory where it can be had again and again: to
// make one, and to wait for a disk, takes a hundred times as long as to look at it.
type original struct {
	home  *home
	files map[string][]byte // by path
}

func picture(f *testing.F, h *home) *original {
	f.Helper()
	root, err := os.MkdirTemp("/dev/shm", "store")
	if errors.Is(err, fs.ErrNotExist) {
		root, err = f.TempDir(), nil
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(root) })
	m := &original{&home{filepath.Join(root, "lib"), filepath.Join(root, "run"), h.boot}, map[string][]byte{}}
	for from, to := range map[string]string{h.dir: m.home.dir, h.run: m.home.run} {
		entries, err := os.ReadDir(from)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range entries {
			if m.files[filepath.Join(to, e.Name())], err = os.ReadFile(filepath.Join(from, e.Name())); err != nil {
				f.Fatal(err)
			}
		}
	}
	return m
}

// restore has the store as it was, and nothing beside it.
func (m *original) restore(t *testing.T) *home {
	t.Helper()
	for _, dir := range []string{m.home.dir, m.home.run} {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range m.files {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return m.home
}
