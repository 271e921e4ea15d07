package e2e

import (
	"regexp"
	"strings"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// A fault is something that an engine does wrong whatever its driver answers. Each is
// told to users in docs/engines.md, and allowed where it is named, by its message, on
// its engine, and nowhere else; and it must show there, lest the list outlive it.
type fault struct {
	engine  string         // Oldest or Newest
	message *regexp.Regexp // all of what the engine says
}

// lostGateway: an engine from 29.0 on keeps in its memory alone which endpoints a
// remote driver has, so after a live-restore it cannot take the gateway from one. It
// asks the driver nothing about it.
var lostGateway = fault{lab.Newest, regexp.MustCompile(`^updating external connectivity for IPv4 endpoint [0-9a-f]{12}: ` +
	`driver failed programming external connectivity on endpoint \S+ \([0-9a-f]{64}\): remote network driver: endpoint [0-9a-f]{64} not found$`)}

// countDrifts: an engine 20.10 under load loses count of the endpoints of a network, and
// counts them anew when it starts. It refuses before it asks the driver anything.
var countDrifts = fault{lab.Oldest, regexp.MustCompile(`^error while removing network: network \S+ id [0-9a-f]{64} has active endpoints$`)}

// removeNetworks removes networks. Where an engine has lost count of endpoints, it does
// so once more after the engine's restart.
func (s *site) removeNetworks(networks []string) {
	s.t.Helper()
	for _, network := range networks {
		heard := len(s.DaemonLog())
		_, err := s.TryDocker("network", "rm", network)
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
		s.t.Fatalf("the engine no longer has the fault %s", f.message)
	}
	_, said, _ := strings.Cut(err.Error(), "Error response from daemon: ")
	if !f.message.MatchString(strings.TrimSpace(said)) {
		s.t.Fatalf("another fault than %s: %v", f.message, err)
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
