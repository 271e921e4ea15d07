package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// A fault is something that an engine does wrong whatever its driver answers. Tests
// allow it where they name it, by its message, on its engine, and nowhere else.
type fault struct {
	engine  string // Oldest or Newest; "" for one that we do not test with
	message string // what docs/engines.md tells of what the engine says; … is any word
}

var (
	// countDrifts: an engine under load loses count of the endpoints of a network, and
	// counts them anew when it starts. It refuses before it asks the driver anything, and
	// does so with its own bridge driver as well: thirty containers, ten at a time, removed
	// at once, on a busy machine.
	countDrifts = fault{lab.Oldest, "error while removing network: network … id … has active endpoints"}
	// lostGateway: the engine keeps in its memory alone which endpoints a remote driver
	// has (daemon/libnetwork/drivers/remote in github.com/moby/moby), so after a
	// live-restore it cannot take the gateway from one. It does not ask the driver.
	lostGateway = fault{lab.Newest, "remote network driver: endpoint … not found"}
	// diesOfRevoke: 29.0.0 to 29.0.2 unlock what they did not lock when they are about to
	// ask a driver to unpublish ports, which it is not asked any more. Seen with
	// v2.0.0-beta.1 of github.com/moby/moby/v2, which has these lines too: started again,
	// the engine has the container's name, address and ports free.
	diesOfRevoke = fault{"", "fatal error: sync: unlock of unlocked mutex"}
	// diesOfPlugin: an engine that was killed ends its plugins when it starts again, and
	// makes them anew. On a busy machine the old one may not have gone by then ("id already
	// in use"): the engine leaves it disabled, asks it for its capabilities all the same
	// (daemon/libnetwork/drivers/remote in github.com/moby/moby) and dies.
	diesOfPlugin = fault{lab.Newest, "panic: runtime error: invalid memory address or nil pointer dereference"}
	// keepsLeft: an engine that was killed while it took a container off a network finds the
	// endpoint in its note of the container's sandbox and keeps it, though the container has
	// left (sandboxRestore in daemon/libnetwork in github.com/moby/moby). It shows it as one
	// in which no container is, and forces nothing on a container that runs.
	keepsLeft = fault{lab.Newest, "container … is not connected to network …"}
)

// is reports whether an engine's error ends in the fault's message.
func (f fault) is(err error) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(f.message), "…", `\S+`)
	return regexp.MustCompile(`(^|: )` + pattern + `\s*$`).MatchString(err.Error())
}

func TestUsersAreToldOfTheFaultsThatTestsAllow(t *testing.T) {
	told, err := os.ReadFile("../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []fault{countDrifts, lostGateway, diesOfRevoke, diesOfPlugin, keepsLeft} {
		if !strings.Contains(string(told), "`"+f.message+"`") {
			t.Errorf("docs/engines.md does not tell of %q", f.message)
		}
	}
}

// removeNetworks removes networks. Where an engine has lost count of endpoints, it does
// so once more after the engine's restart.
func (s *site) removeNetworks(networks []string) {
	s.t.Helper()
	for _, network := range networks {
		heard := len(s.DaemonLog())
		err := s.RemoveNetwork(network)
		if err == nil {
			continue
		}
		s.meets(countDrifts, err)
		if log := s.DaemonLog()[heard:]; strings.Contains(log, "DeleteNetwork") || s.inspect("{{len .Containers}}", network) != "0" {
			s.t.Fatalf("the engine may be right: %v\n%s", err, log)
		}
		restartDocker(s)
		s.Docker("network", "rm", network)
	}
}

// startDockerAfterAKill does so despite diesOfPlugin.
func (s *site) startDockerAfterAKill() {
	s.t.Helper()
	if s.Version() != diesOfPlugin.engine {
		s.StartDocker()
		return
	}
	if s.StartDockerDespite(diesOfPlugin.message) {
		s.t.Logf("known fault of this engine: %s", diesOfPlugin.message)
	}
}

// unstale has an engine forget a container's stale endpoint, which it may not do before
// the container starts again: keepsLeft.
func (s *site) unstale(network, container string) {
	s.t.Helper()
	_, err := s.TryDocker("network", "disconnect", "-f", network, container)
	if s.meets(keepsLeft, err) {
		s.t.Logf("known fault of this engine: %s", keepsLeft.message)
		s.Docker("restart", container)
	}
}

// meets fails the test unless the engine has this fault if it is the one that has it,
// and no error if it is not. It reports whether it has.
func (s *site) meets(f fault, err error) bool {
	s.t.Helper()
	if s.Version() != f.engine {
		if err != nil {
			s.t.Fatalf("no known fault of this engine: %v", err)
		}
		return false
	}
	if err == nil {
		s.t.Fatalf("the engine no longer has the fault %q", f.message)
	}
	if !f.is(err) {
		s.t.Fatalf("want the fault %q, got %v", f.message, err)
	}
	return true
}

// answeredAll fails the test unless every request in this part of the daemon's log had
// the answer that it asked for.
func (s *site) answeredAll(log string) {
	s.t.Helper()
	for line := range strings.Lines(log) {
		if strings.Contains(line, " method=") && !strings.Contains(line, " msg=answered ") {
			s.t.Errorf("the fault may be ours: %s", line)
		}
	}
}
