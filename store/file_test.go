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
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/drawbridge-net/drawbridge/spec"
)

// filled closes a store that holds the sample, and returns where.
func filled(t *testing.T) *home {
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

func TestDamagedFileIsSetAsideAndNeverOverwritten(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut in the middle":       func(b []byte) []byte { return b[:len(b)/2+100] },
		"cut to less than a page": func(b []byte) []byte { return b[:100] },
		"another kind of file":    func([]byte) []byte { return bytes.Repeat([]byte("not a database\n"), 4000) },
		"headers wiped":           func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b },
		"everything else wiped":   func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			for _, file := range []func(*home) string{(*home).state, (*home).bootDB} {
				h := filled(t)
				path := file(h)
				for i := 1; i <= 2; i++ {
					damaged := rewrite(t, path, damage)
					s := h.open(t)
					aside := fmt.Sprintf("%s.damaged-%d", path, i)
					wantNotice(t, s, path+" is damaged", aside)
					kept, err := os.ReadFile(aside)
					if err != nil || !bytes.Equal(kept, damaged) {
						t.Errorf("%s is not what was found (%v)", aside, err)
					}
					loaded(t, s)
					save(t, s, spec.State{}, sample(t))
					wantState(t, s, sample(t))
					closed(t, s)
				}
			}
		})
	}
}

// TestNoDamageIsDeadly turns bytes over at random: whatever comes back, it comes
// back without a crash, and goes on working.
// TestDamageOfAnotherBootIsNobodys is a power cut where boot.db is on a disk.
func TestDamageOfAnotherBootIsNobodys(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"half written":  func(b []byte) []byte { return b[:len(b)/3] },
		"never written": func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			h := filled(t)
			rewrite(t, h.bootDB(), damage)
			long := time.Unix(1000000000, 0)
			if err := os.Chtimes(h.bootDB(), long, long); err != nil {
				t.Fatal(err)
			}
			h.boot = "another"
			s := h.open(t)
			noNotices(t, s)
			if loaded(t, s).Networks.Len() == 0 {
				t.Error("the networks are forgotten too")
			}
			if files, err := os.ReadDir(h.run); err != nil || len(files) != 1 {
				t.Errorf("there is more than one boot.db: %v, %v", files, err)
			}
		})
	}
}

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
		for range 100 {
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
	wantNotice(t, h.open(t), h.state()+" was empty")
}

func TestBrokenRecordHarmsNoOther(t *testing.T) {
	h := filled(t)
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
	s := h.open(t)
	wantState(t, s, sample(t))
	wantNotice(t, s, `network "0" is left out`, "network  is left out")
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
