package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// builds has for each program a function that builds it, in the process's life once: even
// where nothing has changed that takes as long as hundreds of requests to Drawbridge.
var builds sync.Map //nolint:gochecknoglobals // what one test has built no other need build

// goBuild builds a command of this module into the cache, with build tags if there are
// any, and returns its path. It is up to date, so nobody need remember.
func goBuild(t testing.TB, pkg string, tags ...string) string {
	t.Helper()
	name := strings.Join(append([]string{filepath.Base(pkg)}, tags...), "-")
	build, _ := builds.LoadOrStore(name, sync.OnceValues(func() (string, error) { return buildInto(name, pkg, tags) }))
	program, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// buildInto builds a command into the cache under a name. The lock is for tests of other
// packages, which may do so at the same time.
func buildInto(name, pkg string, tags []string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	program := filepath.Join(cache, "built", name)
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(program + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", program, err)
	}
	cmd := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", program, "github.com/drawbridge-net/drawbridge/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w: %s", pkg, err, out)
	}
	return program, nil
}
