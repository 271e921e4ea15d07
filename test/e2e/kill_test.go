package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// restartDocker is done before scenarios that do it too: a restart puts an engine's
// own chains into another order.
func restartDocker(s *site) {
	s.StopDocker()
	s.StartDocker()
}

// tap puts a Tap between engine and daemon, which is not known to the engine yet.
func (s *site) tap() *lab.Tap {
	s.t.Helper()
	s.StopDaemon()
	tap := s.Tap()
	s.StartDaemon()
	return tap
}

// killedAmid kills the engine while it waits for the answer to a method that the
// command makes it ask, and starts it again.
func (s *site) killedAmid(tap *lab.Tap, method string, args ...string) {
	s.t.Helper()
	held := tap.Hold(method)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.TryDocker(args...) // nobody tells it how it went
	}()
	held.Await()
	s.KillDocker()
	held.Release()
	<-ended
	s.StartDocker()
}

func TestEngineKilledAmidTheStartOfAContainer(t *testing.T) {
	eachEngineAfter(t, restartDocker, func(s *site) {
		tap := s.tap()
		s.network("web", "--subnet", "172.30.1.0/24")
		for i, method := range []string{
			"IpamDriver.RequestAddress", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.ProgramExternalConnectivity",
		} {
			name, port := fmt.Sprintf("n%d", i), fmt.Sprint(9000+i)
			args := []string{"--network", "web", "-p", port + ":80", "--ip", fmt.Sprintf("172.30.1.%d", 10+i)}
			run := append([]string{"run", "-d", "--name", name, "--hostname", name}, append(args, lab.Image)...)
			s.killedAmid(tap, method, run...)
			s.Docker("rm", "-f", name)
			s.Run(name, args...)
			s.Outside.MustReach("tcp", "192.0.2.1:"+port, name)
			s.showsPorts(name, "0.0.0.0:"+port+"->80/tcp")
			s.Docker("rm", "-f", name)
			s.knowsEndpoints(0)
		}
	})
}

func TestEngineKilledAmidTheEndOfAContainer(t *testing.T) {
	eachEngineAfter(t, restartDocker, func(s *site) {
		tap := s.tap()
		s.network("web", "--subnet", "172.30.1.0/24")
		for i, method := range []string{
			"NetworkDriver.RevokeExternalConnectivity", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "IpamDriver.ReleaseAddress",
		} {
			name := fmt.Sprintf("n%d", i)
			s.Run(name, "--network", "web", "-p", "9000:80", "--ip", "172.30.1.10")
			s.killedAmid(tap, method, "rm", "-f", name)
			_, _ = s.TryDocker("rm", "-f", name)
			s.knowsEndpoints(0)
		}
		s.Run("c1", "--network", "web", "-p", "9000:80", "--ip", "172.30.1.10")
		s.Outside.MustReach("tcp", "192.0.2.1:9000", "c1")
	})
}

// TestEngineKilledAmidTheLifeOfANetwork is about what an engine never says again. A
// person has to, where a network may be somebody's: status tells how.
func TestEngineKilledAmidTheLifeOfANetwork(t *testing.T) {
	eachEngineAfter(t, restartDocker, func(s *site) {
		tap := s.tap()
		create := []string{"network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--subnet", "172.30.1.0/24", "web"}
		s.killedAmid(tap, "IpamDriver.RequestPool", create...)
		s.Docker(create...)
		for _, method := range []string{"IpamDriver.ReleaseAddress", "NetworkDriver.DeleteNetwork"} {
			s.killedAmid(tap, method, "network", "rm", "web")
			if _, err := s.TryDocker("network", "inspect", "web"); err == nil {
				s.Docker("network", "rm", "web")
			}
			s.removeForgotten(0)
			s.Docker(create...)
		}
		s.Docker("network", "rm", "web")
		for _, method := range []string{"IpamDriver.RequestAddress", "NetworkDriver.CreateNetwork"} {
			s.killedAmid(tap, method, create...)
			s.removeForgotten(1)
			s.Docker(create...)
			s.Docker("network", "rm", "web")
		}
	})
}

// removeForgotten does what status says is to be done about networks that Docker does
// not have, of which there must be so many.
func (s *site) removeForgotten(want int) {
	s.t.Helper()
	out, err := s.Drawbridge("status", "--docker-socket", "/run/docker.sock")
	if err != nil {
		s.t.Fatalf("status: %v\n%s", err, out)
	}
	const advice = "drawbridge remove "
	if got := strings.Count(out, advice); got != want {
		s.t.Fatalf("status names %d networks that Docker does not have, want %d:\n%s", got, want, out)
	}
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(strings.TrimSpace(line), advice); ok {
			if out, err := s.Drawbridge("remove", what, "--docker-socket", "/run/docker.sock"); err != nil {
				s.t.Fatalf("%s%s: %v%s", advice, what, err, out)
			}
		}
	}
}
