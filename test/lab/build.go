package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// goBuild builds a command of this module into the cache, with build tags if there are
// any, and returns its path.
// It costs little when the program is up to date, so nobody need remember. The
// lock is for tests of other packages, which may do so at the same time.
func goBuild(t testing.TB, pkg string, tags ...string) string {
	t.Helper()
	cache, err := Cache()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cache, "built", strings.Join(append([]string{filepath.Base(pkg)}, tags...), "-"))
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(program + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatalf("lock %s: %v", program, err)
	}
	cmd := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", program, "github.com/drawbridge-net/drawbridge/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v: %s", pkg, err, out)
	}
	return program
}
