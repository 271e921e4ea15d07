package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/drawbridge-net/drawbridge/spec"
)

// filled closes a store that holds the sample, and returns where.
func filled(t testing.TB) *home {
	t.Helper()
	h := newHome(t)
	s := h.open(t)
	save(t, s, spec.State{}, sample(t))
	closed(t, s)
	return h
}

func rewrite(t *testing.T, path string, change func([]byte) []byte) []byte {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(bytes.Clone(old))
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	return changed
}

// damages are ways to spoil a file of bbolt's.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"cut in the middle":       func(b []byte) []byte { return b[:len(b)/2+100] },
		"cut to less than a page": func(b []byte) []byte { return b[:100] },
		"another kind of file":    func([]byte) []byte { return bytes.Repeat([]byte("not a database\n"), 4000) },
		"headers wiped":           func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b },
		"everything else wiped":   func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
	}
}

// files are both, by their names.
func files() map[string]func(*home) string {
	return map[string]func(*home) string{"state.db": (*home).state, "boot.db": (*home).bootDB}
}

// TestDamagedFileIsSetAsideAndNothingIsLost for the copy has all of it, again and again.
func TestDamagedFileIsSetAsideAndNothingIsLost(t *testing.T) {
	for name, damage := range damages() {
		for file, path := range files() {
			t.Run(file+" "+name, func(t *testing.T) {
				h := filled(t)
				for i := 1; i <= 2; i++ {
					damaged := rewrite(t, path(h), damage)
					s := h.open(t)
					wantNotice(t, s, path(h)+" is damaged", "is back from its copy")
					h.wantAside(t, path(h), i, damaged)
					wantState(t, s, sample(t))
					if !s.Anew() {
						t.Error("nobody is told that it was damaged")
					}
					closed(t, s)
				}
			})
		}
	}
}

// TestDamageOfFileAndCopyIsSetAsideAndTold and the store works on without.
func TestDamageOfFileAndCopyIsSetAsideAndTold(t *testing.T) {
	for name, damage := range damages() {
		for file, path := range files() {
			t.Run(file+" "+name, func(t *testing.T) {
				h := filled(t)
				spare := strings.TrimSuffix(path(h), ".db") + ".copy"
				damaged, spoilt := rewrite(t, path(h), damage), rewrite(t, spare, damage)
				s := h.open(t)
				wantNotice(t, s, path(h)+" is damaged", "what it held is forgotten: ")
				h.wantAside(t, path(h), 1, damaged)
				h.wantAside(t, spare, 1, spoilt)
				loaded(t, s)
				save(t, s, spec.State{}, sample(t))
				wantState(t, s, sample(t))
			})
		}
	}
}

// wantAside fails the test unless so many files were set aside, the last with this in it.
func (h *home) wantAside(t *testing.T, path string, count int, content []byte) {
	t.Helper()
	all, err := filepath.Glob(path + ".damaged-2*Z*")
	if err != nil || len(all) != count {
		t.Fatalf("set aside: %v, %v; want %d", all, err, count)
	}
	kept := func(aside string) bool {
		got, err := os.ReadFile(aside)
		return err == nil && bytes.Equal(got, content)
	}
	if !slices.ContainsFunc(all, kept) {
		t.Errorf("none of %v is what was found", all)
	}
}

func TestFileThatIsMissingOrEmptyIsBackFromItsCopy(t *testing.T) {
	for file, path := range files() {
		t.Run(file, func(t *testing.T) {
			h := filled(t)
			rewrite(t, path(h), func([]byte) []byte { return nil })
			s := h.open(t)
			wantNotice(t, s, path(h)+" was empty; what it held is back")
			wantState(t, s, sample(t))
			closed(t, s)
			if err := os.Remove(path(h)); err != nil {
				t.Fatal(err)
			}
			s = h.open(t)
			wantNotice(t, s, path(h)+" was missing; what it held is back")
			wantState(t, s, sample(t))
		})
	}
}

// TestCopyLosesNothingThatWasSaved in all the changes since it was made.
func TestCopyLosesNothingThatWasSaved(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	want := saveMany(t, s)
	for _, path := range files() {
		// The file goes on where nobody sees it.
		if err := os.Remove(path(h)); err != nil {
			t.Fatal(err)
		}
	}
	next := want
	if err := next.AddNetwork(network(99)); err != nil {
		t.Fatal(err)
	}
	next.RemoveEndpoint(networkID(1), member(1, 99).ID)
	save(t, s, want, next)
	closed(t, s)
	wantState(t, h.open(t), next)
}

// TestWhatIsNoFileIsNamedAndLeft for whoever put it there knows why.
func TestWhatIsNoFileIsNamedAndLeft(t *testing.T) {
	for what, put := range map[string]func(path string) error{
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
		"symbolic link": func(path string) error { return os.Symlink("/dev/zero", path) },
		"pipe":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		for file, path := range files() {
			t.Run(file+" "+what, func(t *testing.T) {
				h := filled(t)
				if err := errors.Join(os.Remove(path(h)), put(path(h))); err != nil {
					t.Fatal(err)
				}
				before, err := os.Lstat(path(h))
				if err != nil {
					t.Fatal(err)
				}
				_, err = h.tryOpen()
				if err == nil || !strings.Contains(err.Error(), "open "+path(h)+": it is no file (") || !strings.Contains(err.Error(), "move it away") {
					t.Errorf("error %v", err)
				}
				if after, err := os.Lstat(path(h)); err != nil || !os.SameFile(before, after) {
					t.Errorf("it is another now: %v", err)
				}
				if err := os.Remove(path(h)); err != nil {
					t.Fatal(err)
				}
				wantState(t, h.open(t), sample(t))
			})
		}
	}
}

// TestDamageOfAnotherBootIsNobodys is a power cut where boot.db is on a disk. What the
// clock says does not matter.
func TestDamageOfAnotherBootIsNobodys(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"half written":  func(b []byte) []byte { return b[:len(b)/3] },
		"never written": func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			h := filled(t)
			rewrite(t, h.bootDB(), damage)
			h.boot = "another"
			s := h.open(t)
			noNotices(t, s)
			if loaded(t, s).Networks.Len() == 0 {
				t.Error("the networks are forgotten too")
			}
			if files, err := os.ReadDir(h.run); err != nil || len(files) != 2 {
				t.Errorf("there is more than boot.db and its copy: %v, %v", files, err)
			}
		})
	}
}

// TestNoDamageIsDeadly turns bytes over at random: whatever comes back, it comes
// back without a crash, and goes on working.
func TestNoDamageIsDeadly(t *testing.T) {
	small, large := filled(t), newHome(t)
	s := large.open(t)
	saveMany(t, s)
	closed(t, s)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, path := range []string{small.state(), small.bootDB(), large.bootDB()} {
		healthy, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			damaged := bytes.Clone(healthy)
			for range 1 + random.IntN(8) {
				// What is in front matters most.
				damaged[random.IntN(len(damaged)/(1+random.IntN(4)))] ^= byte(1 + random.IntN(255))
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			h := &home{dir, dir, "boot-1"}
			s := h.open(t)
			loaded(t, s)
			if _, err := s.Pools().Load(); err != nil {
				t.Error(err)
			}
			save(t, s, spec.State{}, sample(t))
			closed(t, s)
		}
	}
}

func TestFileOfANewerVersionIsLeftAlone(t *testing.T) {
	for _, file := range []func(*home) string{(*home).state, (*home).bootDB} {
		h := filled(t)
		path := file(h)
		setHeader(t, path, `{"schema":2,"boot":"boot-1"}`)
		if path == h.state() {
			setHeader(t, path, `{"schema":2}`)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.tryOpen(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("error %v, want one that names %s and version 2", err, path)
		}
		after, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was written to (%v)", path, err)
		}
		if _, err := h.tryOpen(); err == nil || strings.Contains(err.Error(), "running") {
			t.Errorf("error %v, want the same again", err)
		}
	}
}

func TestNewerVersionOfAnotherBootIsNoHindrance(t *testing.T) {
	h := filled(t)
	setHeader(t, h.bootDB(), `{"schema":2,"boot":"boot-0"}`)
	noNotices(t, h.open(t))
}

func setHeader(t *testing.T, path, value string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("header")).Put([]byte("header"), []byte(value)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFileThatLostItsContentIsReported(t *testing.T) {
	h := filled(t)
	rewrite(t, h.state(), func([]byte) []byte { return nil })
	if err := os.Remove(filepath.Join(h.dir, "state.copy")); err != nil {
		t.Fatal(err)
	}
	wantNotice(t, h.open(t), h.state()+" was empty; what it held is forgotten")
}

// TestBrokenRecordHarmsNoOther nor is it lost while there is a copy.
func TestBrokenRecordHarmsNoOther(t *testing.T) {
	h := filled(t)
	breakRecords(t, h)
	s := h.open(t)
	wantState(t, s, sample(t))
	wantNotice(t, s, h.state()+` is damaged: network "0" is no record`, "what it held is back from its copy")
	closed(t, s)
	breakRecords(t, h)
	if err := os.Remove(filepath.Join(h.dir, "state.copy")); err != nil {
		t.Fatal(err)
	}
	s = h.open(t)
	wantState(t, s, sample(t))
	wantNotice(t, s, `network "0" is left out`, "network  is left out")
}

func breakRecords(t *testing.T, h *home) {
	t.Helper()
	db, err := bbolt.Open(h.state(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("network"))
		return errors.Join(b.Put([]byte("0"), []byte("{")), b.Put([]byte("1"), []byte("null")))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKillLosesNothingThatWasAnswered lets another process save until it is killed.
func TestKillLosesNothingThatWasAnswered(t *testing.T) {
	h := newHome(t)
	writer := exec.Command(os.Args[0], "-test.run=^TestWriterForKill$")
	writer.Env = append(os.Environ(), "STORE_WRITER_DIR="+h.dir, "STORE_WRITER_RUN="+h.run)
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	saved := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "saved ") {
			saved++
		}
		if saved == 50 {
			_ = writer.Process.Kill()
		}
	}
	_ = writer.Wait()
	if saved < 50 {
		t.Fatalf("the writer ended by itself after %d saves", saved)
	}
	s := h.open(t)
	state := loaded(t, s)
	endpoints := 0
	for _, n := range state.Networks.All() {
		endpoints += n.Endpoints.Len()
	}
	if got := state.Networks.Len() + endpoints; got < saved {
		t.Errorf("%d objects came back of %d that were saved", got, saved)
	}
	noNotices(t, s)
}

// TestWriterForKill is the other process; alone it does nothing.
func TestWriterForKill(t *testing.T) {
	h := &home{os.Getenv("STORE_WRITER_DIR"), os.Getenv("STORE_WRITER_RUN"), "boot-1"}
	if h.dir == "" {
		return
	}
	s := h.open(t)
	var state spec.State
	for n := range 200 {
		for e := -1; e < 20; e++ {
			next := state
			err := next.AddNetwork(network(n))
			if e >= 0 {
				err = next.AddEndpoint(networkID(n), member(n, e))
			}
			if err != nil {
				t.Fatal(err)
			}
			save(t, s, state, next)
			state = next
			fmt.Fprintf(os.Stdout, "saved %d %d\n", n, e)
		}
	}
}
