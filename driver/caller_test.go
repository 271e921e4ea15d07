package driver_test

import (
	"bufio"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// secondEngine is where a second engine's process finds the socket.
const secondEngine = "DRAWBRIDGE_TEST_SECOND_ENGINE"

// promptEnd keeps the race detector from waiting a second before a process ends.
const promptEnd = "GORACE=atexit_sleep_ms=0"

// TestSecondEngine is what that process does: it makes an endpoint and lives on until its
// standard input ends.
func TestSecondEngine(t *testing.T) {
	path := os.Getenv(secondEngine)
	if path == "" {
		return // it is not that process
	}
	w := &wire{t, &http.Client{Transport: &http.Transport{DialContext: dialer(path)}}, path}
	w.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "", ""))
	_, _ = os.Stdout.WriteString("made\n")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// otherEngine is such a process, and how it is ended.
func otherEngine(t *testing.T, w *wire) (first *exec.Cmd, end func()) {
	t.Helper()
	first = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecondEngine$")
	first.Env = append(os.Environ(), secondEngine+"="+w.path, promptEnd)
	stdin, inErr := first.StdinPipe()
	stdout, outErr := first.StdoutPipe()
	if err := errors.Join(inErr, outErr, first.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.Contains(line, "made") {
		t.Fatalf("the first engine says %q, %v", line, err)
	}
	return first, func() {
		if err := errors.Join(stdin.Close(), unix.Waitid(unix.P_PID, first.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantAfterStart has an engine start, after which the endpoint of the other one is there or not.
func (r *rig) wantAfterStart(w *wire, want bool, when string) {
	r.t.Helper()
	w.must("/Plugin.Activate", "")
	state := r.engine.Now().State
	if _, _, err := state.Endpoint(spec.ID(net1), spec.ID(ep1)); errors.Is(err, spec.ErrNotFound) == want {
		r.t.Errorf("%s: %v, want its endpoint to be there: %t", when, err, want)
	}
}

// TestAnEngineThatStartsTakesNothingFromOneThatLives although nobody is in an endpoint of
// that one's yet. One that has ended does not live, though its parent has not taken note yet.
func TestAnEngineThatStartsTakesNothingFromOneThatLives(t *testing.T) {
	r := newRig(t)
	w := r.dial()
	w.must(createNetwork, networkBody(net1, "", pool4, ""))
	first, end := otherEngine(t, w)
	r.wantAfterStart(w, true, "the other engine lives")
	end()
	r.wantAfterStart(w, false, "the other engine is dead, and a zombie")
	_ = first.Wait() // its end is all that counts
}

const (
	// ownIDs says that a test is the first process of a PID namespace.
	ownIDs = "DRAWBRIDGE_TEST_OWN_IDS"
	// lastID is behind which ID the kernel looks for the next one, in such a namespace.
	lastID = "/proc/sys/kernel/ns_last_pid"
)

// TestKernelAProcessWithTheIDOfADeadEngineIsNoEngine that would keep what that one left.
func TestKernelAProcessWithTheIDOfADeadEngineIsNoEngine(t *testing.T) {
	if _, err := os.Stat(lastID); err != nil {
		t.Skipf("the kernel lacks %s (CONFIG_CHECKPOINT_RESTORE)", lastID)
	}
	if os.Getenv(ownIDs) == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		again.Env = append(os.Environ(), ownIDs+"=1", promptEnd)
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if out, err := again.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	r := newRig(t)
	w := r.dial()
	w.must(createNetwork, networkBody(net1, "", pool4, ""))
	for range 20 { // a thread of ours may come first and have the ID
		first, end := otherEngine(t, w)
		r.wantAfterStart(w, true, "the other engine lives")
		end()
		_ = first.Wait()
		if next := nextProcess(t, first.Process.Pid); next == first.Process.Pid {
			r.wantAfterStart(w, false, "another process has the dead engine's ID")
			return
		}
	}
	t.Fatal("no process gets the ID of one that has ended")
}

// nextProcess starts one that lives until the end of the test, and returns its ID: the wanted
// one if that is free.
func nextProcess(t *testing.T, want int) int {
	t.Helper()
	if err := os.WriteFile(lastID, []byte(strconv.Itoa(want-1)), 0); err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), "cat")
	_, err := other.StdinPipe() // which says nothing
	if err := errors.Join(err, other.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(other.Process.Kill(), other.Wait()) })
	return other.Process.Pid
}
