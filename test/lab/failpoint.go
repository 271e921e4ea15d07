package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/failpoint"
)

// Failpoints are what a daemon that was built for it is ordered to do at its steps.
type Failpoints struct {
	t   testing.TB
	dir string
}

// Failpoints has the daemon, from its next start on, obey orders.
func (e *Engine) Failpoints() *Failpoints {
	e.t.Helper()
	if e.failpoints == nil {
		e.failpoints = &Failpoints{e.t, e.t.TempDir()}
	}
	return e.failpoints
}

// Failpoints has the daemon, from its next start on, obey orders.
func (a *Alone) Failpoints() *Failpoints {
	a.t.Helper()
	if a.failpoints == nil {
		a.failpoints = &Failpoints{a.t, a.t.TempDir()}
		a.program = goBuild(a.t, "cmd/drawbridge", "failpoints")
	}
	return a.failpoints
}

func (f *Failpoints) env() []string {
	if f == nil {
		return nil
	}
	return []string{failpoint.Env + "=" + f.dir}
}

// Order gives an order, e.g. "kill 17 ^link dbr3f2a", and forgets the steps taken so far.
// The last order does not hold any more. For its language see failpoint.OrderFile.
func (f *Failpoints) Order(order string) {
	f.t.Helper()
	f.Withdraw()
	draft := filepath.Join(f.dir, "draft")
	err := os.WriteFile(draft, []byte(order), 0o600)
	if err == nil {
		err = os.Rename(draft, filepath.Join(f.dir, failpoint.OrderFile))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// Withdraw takes the order back, so that whatever is held goes on. It may be called from any
// goroutine.
func (f *Failpoints) Withdraw() {
	f.t.Helper()
	for _, name := range []string{failpoint.OrderFile, failpoint.StepsFile} {
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !os.IsNotExist(err) {
			f.t.Error(err)
		}
	}
}

// Steps are the names of the steps that were reached since the order, in their order.
func (f *Failpoints) Steps() []string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, failpoint.StepsFile))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	var steps []string
	for line := range strings.Lines(string(text)) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		steps = append(steps, name)
	}
	return steps
}

// Await waits until as many steps were reached since the order.
func (f *Failpoints) Await(steps int) {
	f.t.Helper()
	Until(f.t, fmt.Sprintf("%d steps reached", steps), func() error {
		if n := len(f.Steps()); n < steps {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}
