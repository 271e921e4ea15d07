//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func give(t *testing.T, dir, order string) {
	t.Helper()
	draft := filepath.Join(dir, "draft")
	if err := os.WriteFile(draft, []byte(order), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, filepath.Join(dir, OrderFile)); err != nil {
		t.Fatal(err)
	}
}

func TestStepsAreCountedHeldAndFailedAsOrdered(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(Env, dir)
	if err := Step("link a", "set up"); err != nil {
		t.Fatalf("without an order: %v", err)
	}
	give(t, dir, "fail 2 ^link a")
	for i, want := range []bool{false, false, true, false} {
		object := "link a"
		if i == 1 {
			object = "link b"
		}
		if err := Step(object, "set up"); errors.Is(err, ErrOrdered) != want {
			t.Errorf("step %d: %v, want an error: %t", i, err, want)
		}
	}
	const want = "1 link a: set up\n2 link a: set up\n3 link a: set up\n"
	if steps, err := os.ReadFile(filepath.Join(dir, StepsFile)); err != nil || string(steps) != want {
		t.Errorf("steps %q, %v, want %q", steps, err, want)
	}
	give(t, dir, "hold 0 .")
	held := make(chan error)
	go func() { held <- Step("link a", "set up") }()
	select {
	case <-held:
		t.Error("a step that was to be held went on")
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.Remove(filepath.Join(dir, OrderFile)); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Errorf("a step that was held: %v", err)
	}
}

// TestAnOrderThatReplacesAnotherIsNoticed has one in a file of the same inode, which the next
// file may get once the last one is gone.
func TestAnOrderThatReplacesAnotherIsNoticed(t *testing.T) {
	dir := t.TempDir()
	p := &point{dir: dir}
	give(t, dir, "fail 2 .")
	for i, want := range []string{"", "fail", "", "fail"} {
		if i == 2 {
			path := filepath.Join(dir, OrderFile)
			next := time.Now().Add(time.Second)
			if err := errors.Join(os.WriteFile(path, []byte("fail 2 ."), 0o600), os.Chtimes(path, next, next)); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.reach("link a: set up"); got != want {
			t.Errorf("step %d: %q, want %q", i, got, want)
		}
	}
}
