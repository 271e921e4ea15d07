package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/store"
)

// tamperings are what people and programs do to a file that we have open.
func tamperings(t *testing.T) map[string]struct {
	do   func(path string) error
	said string
} {
	garbage := make([]byte, 700)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	write := func(offset func(size int64) int64) func(string) error {
		return func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return overwrite(path, garbage, offset(info.Size()))
		}
	}
	return map[string]struct {
		do   func(path string) error
		said string
	}{
		"emptied":                 {func(path string) error { return os.Truncate(path, 0) }, "was cut short"},
		"cut in the middle":       {func(path string) error { return os.Truncate(path, 3*int64(os.Getpagesize())+100) }, "was cut short"},
		"garbage at its head":     {write(func(int64) int64 { return 0 }), "was written to"},
		"garbage in the middle":   {write(func(size int64) int64 { return rand.Int64N(size - 700) }), "was written to"},
		"garbage behind its end":  {write(func(size int64) int64 { return size }), "was written to"},
		"removed":                 {os.Remove, "was removed"},
		"replaced by a text":      {func(path string) error { return replace(path, []byte("what is this? ")) }, "was replaced"},
		"replaced by an old one":  {func(path string) error { return replace(path, old(t, path)) }, "was replaced"},
		"moved where nobody sees": {func(path string) error { return os.Rename(path, filepath.Join(t.TempDir(), "moved")) }, "was removed"},
	}
}

func overwrite(path string, content []byte, offset int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, offset)
	return errors.Join(err, f.Close())
}

func replace(path string, content []byte) error {
	return errors.Join(os.WriteFile(path+".x", content, 0o600), os.Rename(path+".x", path))
}

// nextTick waits until what is written has a later time than a file has: before 6.13 the
// kernel's clock for that stands still for some milliseconds.
func nextTick(t *testing.T, path string) {
	t.Helper()
	last, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	probe := path + ".probe" // on the same file system
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		writeErr := os.WriteFile(probe, []byte("probe"), 0o600)
		info, err := os.Stat(probe)
		if err := errors.Join(writeErr, err, os.Remove(probe)); err != nil {
			t.Fatal(err)
		}
		if info.ModTime().After(last.ModTime()) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("what is written has the time of %s, %v, for 10 seconds", path, last.ModTime())
		}
	}
}

// old is a file of ours that is sound and holds nothing.
func old(t *testing.T, path string) []byte {
	t.Helper()
	h := newHome(t)
	closed(t, h.open(t))
	content, err := os.ReadFile(files()[filepath.Base(path)](h))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestFileThatIsTamperedWithWhileItIsOpenLosesNothing of what was saved before, or is saved
// next, nor after the next start; and what somebody put there is kept.
func TestFileThatIsTamperedWithWhileItIsOpenLosesNothing(t *testing.T) {
	for name, tampering := range tamperings(t) {
		for file, path := range files() {
			reads := rand.IntN(2) == 0 // which heals as well
			t.Run(fmt.Sprintf("%s %s, read first: %t", file, name, reads), func(t *testing.T) {
				h := newHome(t)
				s := h.open(t)
				var heard []string
				s.Listen(func(notice string) { heard = append(heard, notice) })
				save(t, s, spec.State{}, sample(t))
				nextTick(t, path(h))
				if err := tampering.do(path(h)); err != nil {
					t.Fatal(err)
				}
				if reads {
					wantState(t, s, sample(t))
				}
				state := sample(t)
				for range 2 { // the next save heals, and so the one after it is as any other
					state = saveBoth(t, s, state)
				}
				wantState(t, s, state)
				wantNotice(t, s, path(h)+" "+tampering.said, "while it was in use", "what it held is back from its copy")
				if len(heard) != 1 {
					t.Errorf("heard %q", heard)
				}
				aside, _ := filepath.Glob(path(h) + ".damaged-*")
				if want := tampering.said != "was removed"; (len(aside) == 1) != want {
					t.Errorf("set aside: %v", aside)
				}
				closed(t, s)
				s = h.open(t)
				noNotices(t, s)
				wantState(t, s, state)
			})
		}
	}
}

// saveBoth saves a change of either file.
func saveBoth(t *testing.T, s *store.Store, state spec.State) spec.State {
	t.Helper()
	next := grown(t, state)
	save(t, s, state, next)
	return next
}

// grown has one network and one endpoint more.
func grown(t *testing.T, state spec.State) spec.State {
	t.Helper()
	n := 200 + state.Networks.Len()
	if err := errors.Join(state.AddNetwork(network(n)), state.AddEndpoint(networkID(n), member(n, 1))); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestCopyThatIsTamperedWithIsMadeAnew from the file, of which nothing is said.
func TestCopyThatIsTamperedWithIsMadeAnew(t *testing.T) {
	for name, tampering := range tamperings(t) {
		if name == "replaced by an old one" {
			continue // there are no old copies
		}
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			for _, spare := range []string{filepath.Join(h.dir, "state.copy"), filepath.Join(h.run, "boot.copy")} {
				nextTick(t, spare)
				if err := tampering.do(spare); err != nil {
					t.Fatal(err)
				}
			}
			state := saveBoth(t, s, sample(t))
			noNotices(t, s)
			for _, path := range files() { // what it is for
				if err := os.Truncate(path(h), 0); err != nil {
					t.Fatal(err)
				}
			}
			closed(t, s)
			wantState(t, h.open(t), state)
		})
	}
}

// pair are the file and the copy in a directory, which has nothing else in it.
func pair(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) != 2 {
		t.Fatalf("%s has %v, %v", dir, all, err)
	}
	return all
}

// TestFileAndCopyThatAreRemovedAreBack from what is still open.
func TestFileAndCopyThatAreRemovedAreBack(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	save(t, s, spec.State{}, sample(t))
	for _, dir := range []string{h.dir, h.run} {
		for _, path := range pair(t, dir) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	state := saveBoth(t, s, sample(t))
	wantNotice(t, s, h.state()+" was removed", h.bootDB()+" was removed")
	closed(t, s)
	s = h.open(t)
	noNotices(t, s)
	wantState(t, s, state)
}

// TestFileAndCopyThatAreSpoiltAreNamed at each save, and neither is written to.
func TestFileAndCopyThatAreSpoiltAreNamed(t *testing.T) {
	for file, path := range files() {
		t.Run(file, func(t *testing.T) {
			h := newHome(t)
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			for _, spoil := range []string{path(h), strings.TrimSuffix(path(h), ".db") + ".copy"} {
				if err := os.Truncate(spoil, 0); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				err := s.Networks().Save(sample(t), grown(t, sample(t)))
				want := "write " + path(h) + ": " + path(h) + " was cut short while it was in use, and so was its copy"
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %s", err, want)
				}
			}
			wantEmpty(t, path(h))
		})
	}
}

// TestFileThatIsReplacedAmidAWriteIsNotTakenForOurs although its name leads to a sound file
// of ours: what was written is not in that one, and comes back from where it is.
func TestFileThatIsReplacedAmidAWriteIsNotTakenForOurs(t *testing.T) {
	for file, path := range files() {
		t.Run(file, func(t *testing.T) {
			h := newHome(t)
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			foreign := old(t, path(h))
			var amid sync.Once // a notice is told after a look at the file, and before the write to it
			s.Listen(func(string) {
				amid.Do(func() {
					if err := replace(path(h), foreign); err != nil {
						t.Error(err)
					}
				})
			})
			if err := os.Remove(path(h)); err != nil {
				t.Fatal(err)
			}
			state := saveBoth(t, s, sample(t))
			wantState(t, s, state)
			wantNotice(t, s, path(h)+" was removed", path(h)+" was replaced while it was in use; "+path(h)+" is kept as")
			state = saveBoth(t, s, state)
			closed(t, s)
			s = h.open(t)
			noNotices(t, s)
			wantState(t, s, state)
		})
	}
}

// TestFileThatIsSpoiltAndThenRemovedIsNotBroughtBack from what is open still, should its copy
// be lost too.
func TestFileThatIsSpoiltAndThenRemovedIsNotBroughtBack(t *testing.T) {
	for file, path := range files() {
		t.Run(file, func(t *testing.T) {
			h := newHome(t)
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			nextTick(t, path(h))
			garbage := bytes.Repeat([]byte("what is this? "), 1<<10)
			for _, lost := range pair(t, filepath.Dir(path(h))) {
				if err := errors.Join(overwrite(lost, garbage, 0), os.Remove(lost)); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Networks().Save(sample(t), grown(t, sample(t)))
			if want := path(h) + " was removed while it was in use, and so was its copy"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

func wantEmpty(t *testing.T, path string) {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.Size() > 0 {
		t.Errorf("%s: %v, %v", path, info, err)
	}
}

// TestPagesThatGoUnderAWriteAreAnErrorAndNoCrash as when a file is cut short in the very
// moment: here it looks as it was left, and its pages are gone. The next save heals it.
func TestPagesThatGoUnderAWriteAreAnErrorAndNoCrash(t *testing.T) {
	for file, path := range files() {
		t.Run(file, func(t *testing.T) {
			h := newHome(t)
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			info, err := os.Stat(path(h))
			if err != nil {
				t.Fatal(err)
			}
			err = errors.Join(os.Truncate(path(h), 0), os.Truncate(path(h), info.Size()), os.Chtimes(path(h), info.ModTime(), info.ModTime()))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Networks().Save(sample(t), grown(t, sample(t))); err == nil || !strings.Contains(err.Error(), path(h)+" is damaged") {
				t.Errorf("error %v", err)
			}
			state := saveBoth(t, s, sample(t))
			wantState(t, s, state)
			closed(t, s)
			s = h.open(t)
			noNotices(t, s)
			wantState(t, s, state)
		})
	}
}

// TestNoTimeIsRemembered which a clock that was set back would put into the future.
func TestNoTimeIsRemembered(t *testing.T) {
	seen := map[reflect.Type]bool{reflect.TypeFor[time.Time](): false}
	var look func(reflect.Type)
	look = func(is reflect.Type) {
		if seen[is] {
			return
		}
		seen[is] = true
		switch is.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			look(is.Elem())
		case reflect.Map:
			look(is.Key())
			look(is.Elem())
		case reflect.Struct:
			for i := range is.NumField() {
				look(is.Field(i).Type)
			}
		}
	}
	for _, record := range []reflect.Type{reflect.TypeFor[spec.Network](), reflect.TypeFor[spec.Endpoint](), reflect.TypeFor[ipam.Snapshot]()} {
		look(record)
	}
	if len(seen) < 20 || seen[reflect.TypeFor[time.Time]()] {
		t.Errorf("a time is among %d types: %t", len(seen), seen[reflect.TypeFor[time.Time]()])
	}
}

// TestFilesOfTheFutureAreAsAnyOther since nothing is judged by the time of day.
func TestFilesOfTheFutureAreAsAnyOther(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	save(t, s, spec.State{}, sample(t))
	state := saveBoth(t, s, sample(t))
	closed(t, s)
	for _, dir := range []string{h.dir, h.run} {
		for i, path := range pair(t, dir) {
			at := time.Now().AddDate(100*(1-2*i), 0, 0) // one in a hundred years, one a hundred ago
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = h.open(t)
	noNotices(t, s)
	wantState(t, s, state)
	state = saveBoth(t, s, state)
	closed(t, s)
	wantState(t, h.open(t), state)
}
