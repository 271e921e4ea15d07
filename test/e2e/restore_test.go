package e2e

import (
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// liveRestore starts the engines so that containers go on without them. An engine that
// finds some orders its rules in another way than one that finds none.
func liveRestore(t *testing.T, scenario func(s *site)) {
	t.Helper()
	eachEngineWith(t, []string{"--live-restore"}, asItCame, func(s *site) {
		scenario(s)
		s.removeAll()
		restartDocker(s)
	})
}

// endings are the ways in which an engine ends.
var endings = map[string]func(*lab.Engine){
	"stopped": (*lab.Engine).StopDocker,
	"killed":  (*lab.Engine).KillDocker,
}

func TestEngineLiveRestoreKeepsConnectionsAndPorts(t *testing.T) {
	liveRestore(t, func(s *site) {
		s.webAndOther()
		flow := s.Outside.Dial("tcp", "192.0.2.1:8080")
		goesOn := func(when string) {
			s.t.Helper()
			if _, err := flow.Ask(hello.Patience); err != nil {
				s.t.Fatalf("the connection broke when the engine was %s: %v", when, err)
			}
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		}
		for ending, end := range endings {
			end(s.Engine)
			goesOn(ending)
			s.KillDaemon()
			s.StartDaemon()
			goesOn(ending + ", and the daemon too")
			s.StartDocker()
			goesOn(ending + " and started again")
			s.knowsEndpoints(3)
		}
		s.doesMainJob()
	})
}

// TestEngineLiveRestoredContainersEndAsOthersDo is about endpoints of an engine that
// has forgotten which of them publishes.
func TestEngineLiveRestoredContainersEndAsOthersDo(t *testing.T) {
	liveRestore(t, func(s *site) {
		for _, s.ipam = range ipams {
			for _, end := range endings {
				s.endsLiveRestored(end)
				s.removeAll()
			}
		}
	})
}

func (s *site) endsLiveRestored(end func(*lab.Engine)) {
	s.t.Helper()
	s.webAndOther()
	s.Docker("network", "connect", "other", "c2")
	s.Run("restarts", "--network", "web", "-p", "8081:80")
	end(s.Engine)
	s.StartDocker()

	s.Docker("network", "disconnect", "other", "c2")
	s.MustReach("c2", "tcp", "c1:80", "c1")
	s.Docker("network", "disconnect", "web", "c2")
	s.Docker("network", "connect", "web", "c2")
	s.MustReach("c2", "tcp", "c1:80", "c1")
	s.Docker("restart", "-t", "1", "restarts")
	s.serveAgain("restarts")
	s.Outside.MustReach("tcp", "192.0.2.1:8081", "restarts")

	s.Docker("stop", "-t", "1", "c1")
	s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
	s.Docker("rm", "c1")
	s.Run("c3", "--network", "web", "-p", "8080:80")
	s.Outside.MustReach("tcp", "192.0.2.1:8080", "c3")
	s.MustReach("c3", "tcp", "c2:80", "c2")
	s.Docker("rm", "-f", "d1")
	s.Docker("network", "rm", "other")
	s.knowsEndpoints(3)
}

// TestEngineLiveRestoredContainerGetsAnotherGateway connects one to a network that
// becomes its gateway.
func TestEngineLiveRestoredContainerGetsAnotherGateway(t *testing.T) {
	liveRestore(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.network("aaa", "--subnet", "172.30.2.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.KillDocker()
		s.StartDocker()
		heard := len(s.DaemonLog())
		_, err := s.TryDocker("network", "connect", "aaa", "c1")
		failed := s.meets(lostGateway, err)
		if failed {
			s.answeredAll(s.DaemonLog()[heard:])
		}
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.MustReach("c1", "tcp", lab.Internet+":80", "outside")

		// What docs/engines.md advises.
		s.Docker("restart", "-t", "1", "c1")
		s.serveAgain("c1")
		if failed {
			s.Docker("network", "connect", "aaa", "c1")
		}
		if got := s.gateway("c1", "aaa"); got != "172.30.2.1" {
			s.t.Errorf("c1 is on network aaa by gateway %q", got)
		}
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
	})
}
