package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

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

// asked are those of the methods that are asked where addresses are as the site has them.
func (s *site) asked(methods ...string) []string {
	return slices.DeleteFunc(methods, func(method string) bool {
		return s.ipam == "default" && strings.HasPrefix(method, "IpamDriver.")
	})
}

// amidContainers goes through a scenario for each IPAM, on an engine that ends its
// containers with itself or on one that does not: there a bystander notices nothing.
func amidContainers(t *testing.T, live bool, scenario func(s *site, tap *lab.Tap)) {
	t.Helper()
	each, left := eachEngine, 0
	if live {
		each, left = liveRestore, 1
	}
	each(t, func(s *site) {
		tap := s.tap()
		for _, s.ipam = range ipams {
			s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
			s.Run("bystander", "--network", "web", "-p", "8080:80")
			flow := s.Outside.Dial("tcp", "192.0.2.1:8080")
			scenario(s, tap)
			if _, err := flow.Ask(hello.Patience); live && err != nil {
				s.t.Errorf("a bystander's connection broke: %v", err)
			}
			s.knowsEndpoints(left)
			s.removeAll()
		}
	})
}

func TestEngineKilledAmidTheStartOfAContainer(t *testing.T) {
	amidContainers(t, false, (*site).killedAmidStarts)
}

func TestEngineLiveRestoreKilledAmidTheStartOfAContainer(t *testing.T) {
	amidContainers(t, true, (*site).killedAmidStarts)
}

func (s *site) killedAmidStarts(tap *lab.Tap) {
	s.t.Helper()
	for i, method := range s.asked("IpamDriver.RequestAddress", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join",
		"NetworkDriver.ProgramExternalConnectivity", "NetworkDriver.EndpointOperInfo") {
		name, port := fmt.Sprintf("n%d", i), fmt.Sprint(9000+i)
		args := []string{"--network", "web", "-p", port + ":80", "--ip", fmt.Sprintf("172.30.1.%d", 10+i), "--ip6", fmt.Sprintf("fd00:30:1::%d", 10+i)}
		run := append([]string{"run", "-d", "--name", name, "--hostname", name}, append(args, lab.Image)...)
		s.killedAmid(tap, method, run...)
		s.Docker("rm", "-f", name)
		s.Run(name, args...)
		for _, f := range both {
			s.Outside.MustReach("tcp", join(f.host(s), port), name)
		}
		s.showsPorts(name, "0.0.0.0:"+port+"->80/tcp")
		s.Docker("rm", "-f", name)
	}
}

func TestEngineKilledAmidTheEndOfAContainer(t *testing.T) {
	amidContainers(t, false, (*site).killedAmidEnds)
}

func TestEngineLiveRestoreKilledAmidTheEndOfAContainer(t *testing.T) {
	amidContainers(t, true, (*site).killedAmidEnds)
}

func (s *site) killedAmidEnds(tap *lab.Tap) {
	s.t.Helper()
	args := []string{"--network", "web", "-p", "9000:80", "--ip", "172.30.1.10", "--ip6", "fd00:30:1::10"}
	for i, method := range s.asked("NetworkDriver.RevokeExternalConnectivity", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "IpamDriver.ReleaseAddress") {
		name := fmt.Sprintf("n%d", i)
		s.Run(name, args...)
		s.killedAmid(tap, method, "rm", "-f", name)
		_, _ = s.TryDocker("rm", "-f", name)
	}
	s.Run("last", args...)
	for _, f := range both {
		s.Outside.MustReach("tcp", join(f.host(s), "9000"), "last")
	}
	s.Docker("rm", "-f", "last")
}

// TestEngineKilledAmidTheLifeOfANetwork is about what an engine never says again. A
// person has to, where a network may be somebody's: status tells how.
func TestEngineKilledAmidTheLifeOfANetwork(t *testing.T) {
	eachEngine(t, func(s *site) {
		tap := s.tap()
		for _, s.ipam = range ipams {
			create := []string{
				"network", "create", "-d", "drawbridge", "--ipam-driver", s.ipam,
				"--subnet", "172.30.1.0/24", "--gateway", "172.30.1.9", "--aux-address", "printer=172.30.1.7", "web",
			}
			for _, method := range s.asked("IpamDriver.RequestPool") {
				s.killedAmid(tap, method, create...)
				s.Docker(create...) // whoever wants the same again needs no help
				s.Docker("network", "rm", "web")
				s.removeForgotten(0)
			}
			for _, method := range s.asked("IpamDriver.ReleaseAddress", "IpamDriver.ReleasePool", "NetworkDriver.DeleteNetwork") {
				s.Docker(create...)
				s.killedAmid(tap, method, "network", "rm", "web")
				if _, err := s.TryDocker("network", "inspect", "web"); err == nil {
					s.Docker("network", "rm", "web")
				}
				s.removeForgotten(0)
			}
			for _, method := range s.asked("IpamDriver.RequestAddress", "NetworkDriver.CreateNetwork") {
				s.killedAmid(tap, method, create...)
				s.removeForgotten(1)
				s.Docker(create...)
				s.Docker("network", "rm", "web")
			}
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
