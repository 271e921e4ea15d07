package e2e

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineRemovesContainersWhileNobodyListens is about a daemon that is away: an
// engine gives up after a while and does not say so again.
func TestEngineRemovesContainersWhileNobodyListens(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.tap()
		for _, s.ipam = range ipams {
			s.webAndOther()
			s.Docker("network", "connect", "other", "c2")
			s.Run("named", "--network", "web", "--ip", "172.30.1.77", "-p", "8081:80")
			s.KillDaemon()
			s.Docker("rm", "-f", "c1")
			s.Docker("rm", "-f", "named")
			s.Docker("network", "disconnect", "web", "c2")
			s.StartDaemon()

			// Whoever wants what they had gets it, at once.
			s.Run("c3", "--network", "web", "-p", "8080:80")
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c3")
			s.Run("again", "--network", "web", "--ip", "172.30.1.77", "-p", "8081:80")
			s.Outside.MustReach("tcp", "192.0.2.1:8081", "again")
			s.MustReach("c2", "tcp", "d1:80", "d1")
			s.Docker("network", "connect", "web", "c2")
			s.MustReach("c3", "tcp", "c2:80", "c2")
			s.MustReach("c2", "tcp", "c3:80", "c3")
			s.removeAll()
		}
	})
}

// TestEngineForgetsNothingOfADaemonThatIsSoonBack is about a daemon that is restarted
// while containers end: the engine asks again for a while.
func TestEngineForgetsNothingOfADaemonThatIsSoonBack(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80", "--ip", "172.30.1.77")
		s.KillDaemon()
		removed := make(chan error, 1)
		go func() {
			_, err := s.TryDocker("rm", "-f", "c1")
			removed <- err
		}()
		s.StartDaemon()
		if err := <-removed; err != nil {
			s.t.Fatal(err)
		}
		s.knowsEndpoints(0)
		s.Run("c1", "--network", "web", "-p", "8080:80", "--ip", "172.30.1.77")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

func TestEngineRemovesNetworksWhileNobodyListens(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.tap()
		for _, s.ipam = range ipams {
			s.network("web", "--subnet", "172.30.1.0/24")
			s.network("other", "--subnet", "172.30.2.0/24")
			s.Run("c1", "--network", "web", "-p", "8080:80")
			s.Run("c2", "--network", "other", "-p", "8081:80")
			s.KillDaemon()
			s.Docker("rm", "-f", "c1")
			s.Docker("network", "rm", "web")
			s.StartDaemon()
			if _, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", s.ipam, "--subnet", "172.30.1.0/24", "again"); err == nil || !strings.Contains(err.Error(), "drawbridge status") {
				s.t.Errorf("a subnet of a network that Docker has forgotten: want an error that names drawbridge status, got %v", err)
			}
			s.removeForgotten(1)
			s.knowsEndpoints(1)
			s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
			s.network("web", "--subnet", "172.30.1.0/24")
			s.Run("c1", "--network", "web", "-p", "8080:80")
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
			s.Outside.MustReach("tcp", "192.0.2.1:8081", "c2")
			s.removeAll()
		}
	})
}

// TestEngineRemovesNetworksBeforeItKnowsUs is about an engine that has had no need of us
// since its start and does not find us: it says so, shows the network no more, and
// tells us when it starts the next time.
func TestEngineRemovesNetworksBeforeItKnowsUs(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.ipam = "default"
		s.network("web", "--subnet", "172.30.1.0/24")
		s.KillDaemon()
		restartDocker(s)
		if out, err := s.TryDocker("network", "rm", "web"); err == nil {
			s.t.Errorf("the engine removes a network of a driver that it does not find: %s", out)
		}
		s.StartDaemon()
		restartDocker(s)
		s.hasNothing()
	})
}
