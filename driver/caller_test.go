package driver_test

import (
	"bufio"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// secondEngine is where a second engine's process finds the socket.
const secondEngine = "DRAWBRIDGE_TEST_SECOND_ENGINE"

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

// TestAnEngineThatStartsTakesNothingFromOneThatLives although nobody is in an endpoint of
// that one's yet.
func TestAnEngineThatStartsTakesNothingFromOneThatLives(t *testing.T) {
	r := newRig(t)
	w := r.dial()
	w.must(createNetwork, networkBody(net1, "", pool4, ""))
	first := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecondEngine$")
	first.Env = append(os.Environ(), secondEngine+"="+w.path)
	stdin, inErr := first.StdinPipe()
	stdout, outErr := first.StdoutPipe()
	if err := errors.Join(inErr, outErr, first.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.Contains(line, "made") {
		t.Fatalf("the first engine says %q, %v", line, err)
	}
	has := func(want bool, when string) {
		t.Helper()
		w.must("/Plugin.Activate", "")
		state := r.engine.Now().State
		if _, _, err := state.Endpoint(spec.ID(net1), spec.ID(ep1)); errors.Is(err, spec.ErrNotFound) == want {
			t.Errorf("%s: %v, want its endpoint to be there: %t", when, err, want)
		}
	}
	has(true, "the other engine lives")
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // its end is all that counts
	has(false, "the other engine is dead")
}
