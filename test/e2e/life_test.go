package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestEngineConnectAndDisconnectWhileRunning(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.network("back", "--subnet", "172.30.2.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Run("d1", "--network", "back")
		s.Docker("network", "connect", "back", "c1")
		s.MustReach("d1", "tcp", "c1:80", "c1")
		s.MustReach("c1", "tcp", "d1:80", "d1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.MustReach("c1", "tcp", lab.Internet+":80", "outside")

		s.Docker("network", "disconnect", "web", "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1") // its gateway is now the other network
		s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
		s.Docker("network", "disconnect", "back", "c1")
		s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
		s.Docker("network", "connect", "--ip", "172.30.1.77", "web", "c1")
		if got := s.address("c1", "web"); got != "172.30.1.77" {
			s.t.Errorf("--ip 172.30.1.77 gave %s", got)
		}
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

func TestEngineOtherModesBesideOurs(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Docker("run", "-d", "--name", "beside", "--network=container:c1", lab.Image, "peer", "serve", "tcp:81")
		s.Docker("run", "-d", "--name", "hostmode", "--network=host", lab.Image, "sleep", "1000")
		s.Docker("run", "-d", "--name", "alone", "--network=none", lab.Image, "sleep", "1000")
		s.Run("c2", "--network", "web")
		s.MustReach("c2", "tcp", "c1:81", "c1")
		s.MustReach("beside", "tcp", lab.Internet+":80", "outside")
		s.MustReach("hostmode", "tcp", s.address("c1", "web")+":80", "c1")
		s.MustReach("hostmode", "tcp", "127.0.0.1:8080", "c1")
		s.MustNotReach("alone", "tcp", s.address("c1", "web")+":80", hello.Refuse)
	})
}

func TestEngineComposeServicesFindEachOther(t *testing.T) {
	eachClients(t, (*site).composeServicesFindEachOther)
}

func (s *site) composeServicesFindEachOther() {
	s.t.Helper()
	project := `
services:
  one: {image: lab, hostname: one, container_name: one, ports: ["8080:80"]}
  two: {image: lab, hostname: two, container_name: two}
networks:
  default: {driver: "` + s.driver + `", ipam: {driver: "` + s.driver + `"}}
`
	s.compose(project)
	s.MustReach("one", "tcp", "two:80", "two")
	s.MustReach("two", "udp", "one:80", "one")
	s.Outside.MustReach("tcp", "192.0.2.1:8080", "one")
	s.composeDown(project)
}

// compose brings a project up.
func (s *site) compose(project string) {
	s.t.Helper()
	if _, err := s.Compose("p", project, "up", "-d"); err != nil {
		s.t.Fatal(err)
	}
}

// composeDown takes it down again.
func (s *site) composeDown(project string) {
	s.t.Helper()
	if _, err := s.Compose("p", project, "down"); err != nil {
		s.t.Fatal(err)
	}
}

func TestEngineThirtyContainersTenAtATime(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		slots := make(chan struct{}, 10)
		errs := make([]error, 30)
		var wait sync.WaitGroup
		for i := range errs {
			wait.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				name := fmt.Sprintf("n%d", i)
				_, errs[i] = s.TryDocker("run", "-d", "--name", name, "--hostname", name, "--network", "web", "-p", fmt.Sprintf("%d:80", 8000+i), lab.Image)
			})
		}
		wait.Wait()
		addresses := map[string]bool{}
		for i, err := range errs {
			if err != nil {
				s.t.Fatal(err)
			}
			name := fmt.Sprintf("n%d", i)
			addresses[s.address(name, "web")] = true
			s.Outside.MustReach("tcp", fmt.Sprintf("192.0.2.1:%d", 8000+i), name)
		}
		if len(addresses) != len(errs) {
			s.t.Errorf("%d containers have %d addresses", len(errs), len(addresses))
		}
	})
}

// TestEngineDaemonKilledAmidRequests has containers start while the daemon is killed
// again and again. A start may fail, since engines repeat a request without its body,
// but then it leaves nothing that stands in the way of the next.
func TestEngineDaemonKilledAmidRequests(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c0", "--network", "web", "-p", "8080:80")
		for i, amid := range []string{"RequestAddress", "CreateEndpoint", "Join", "ProgramExternalConnectivity"} {
			name, port := fmt.Sprintf("n%d", i), fmt.Sprintf("%d", 9000+i)
			args := []string{"run", "-d", "--name", name, "--hostname", name, "--network", "web", "-p", port + ":80", lab.Image}
			before := strings.Count(s.DaemonLog(), amid)
			failed := make(chan error, 1)
			go func() {
				_, err := s.TryDocker(args...)
				failed <- err
			}()
			lab.Until(s.t, "the request of "+amid, func() error {
				if strings.Count(s.DaemonLog(), amid) == before {
					return errors.New("it has not come")
				}
				return nil
			})
			s.KillDaemon()
			s.StartDaemon()
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c0")
			if err := <-failed; err != nil {
				s.Docker("rm", "-f", name)
				s.Docker(args...)
			}
			lab.Until(s.t, name+" serves", func() error {
				_, err := s.Outside.Ask("tcp", "192.0.2.1:"+port)
				return err
			})
			s.Outside.MustReach("tcp", "192.0.2.1:"+port, name)
			s.MustReach("c0", "tcp", name+":80", name)
			s.showsPorts(name, "0.0.0.0:"+port+"->80/tcp")
		}
		if out, err := s.Drawbridge("status"); err != nil {
			s.t.Errorf("status: %v\n%s", err, out)
		}
	})
}

func TestEngineRestartsAndFindsItsContainersAgain(t *testing.T) {
	eachEngine(t, func(s *site) {
		for _, s.ipam = range ipams {
			s.network("web", "--subnet", "172.30.1.0/24")
			s.Run("c1", "--network", "web", "-p", "8080:80", "--restart", "always")
			s.Run("c2", "--network", "web")
			s.StopDocker()
			s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
			s.StartDocker()
			s.comesBack("c1 after the engine's restart")
			s.Docker("start", "c2")
			s.MustReach("c2", "tcp", "c1:80", "c1")
			s.Docker("restart", "-t", "1", "c1")
			s.comesBack("c1 after its own restart")

			s.KillDocker()
			s.StartDocker()
			s.comesBack("c1 after the engine was killed")
			s.knowsEndpoints(1)
			s.Docker("start", "c2")
			s.MustReach("c2", "tcp", "c1:80", "c1")
			s.removeAll()
		}
	})
}

// comesBack waits until port 8080 of the host answers again.
func (s *site) comesBack(what string) {
	s.t.Helper()
	lab.Until(s.t, what, func() error {
		_, err := s.Outside.Ask("tcp", "192.0.2.1:8080")
		return err
	})
}

// TestEngineKilledLeavesNoPortTaken is about a network whose addresses are Docker's:
// an engine that was killed then never says which endpoints died with it.
func TestEngineKilledLeavesNoPortTaken(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Docker("network", "create", "-d", "drawbridge", "web")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.KillDocker()
		s.StartDocker()
		lab.Until(s.t, "the dead endpoint is forgotten", func() error {
			out, err := s.Drawbridge("ps", "--json")
			if err == nil && strings.TrimSpace(out) != "[]" {
				err = fmt.Errorf("ps shows %s", out)
			}
			return err
		})
		s.Run("c2", "--network", "web", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c2")
	})
}

func TestEngineDockersOwnAddressesUnderOurNetworks(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Docker("network", "create", "-d", "drawbridge", "web")
		s.Run("c1", "--network", "web", "-p", "8080:80", "--mac-address", "02:00:5e:00:53:01")
		s.Run("c2", "--network", "web")
		s.MustReach("c2", "tcp", "c1:80", "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		if got := s.Docker("exec", "c1", "cat", "/sys/class/net/eth0/address"); strings.TrimSpace(got) != "02:00:5e:00:53:01" {
			s.t.Errorf("--mac-address gave %s", got)
		}
	})
}

// TestEngineOneNetworkCanBeRemoved is for a network that Docker has forgotten.
func TestEngineOneNetworkCanBeRemoved(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		id := s.inspect("{{.Id}}", "web")[:12]
		if _, err := s.Drawbridge("remove", id, "--docker-socket", "/run/docker.sock"); err == nil || !strings.Contains(err.Error(), "docker network rm web") {
			s.t.Fatalf("while Docker has it: want a refusal that names docker network rm web, got %v", err)
		}
		if out, err := s.Drawbridge("remove", id, "--force"); err != nil {
			s.t.Fatalf("%v%s", err, out)
		}
		s.Docker("network", "rm", "web")
		s.network("again", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "again", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

// TestEngineWhatMakesNoSenseIsRefused tells a person at the prompt what is wrong.
func TestEngineWhatMakesNoSenseIsRefused(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		for _, row := range []struct {
			args []string
			want string
		}{
			{[]string{"network", "create", "-d", "drawbridge", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "x"}, "--internal"},
			{[]string{"network", "create", "-d", "drawbridge", "-o", "com.docker.network.driver.mtu=large", "x"}, "com.docker.network.driver.mtu"},
			{[]string{"network", "create", "-d", "drawbridge", "-o", "drawbridge.mut=1400", "x"}, "nearest"},
			{[]string{"network", "create", "-d", "drawbridge", "--subnet", "172.30.1.128/25", "x"}, "172.30.1.0/24"},
			{[]string{"network", "create", "-d", "drawbridge", "--subnet", "192.0.2.128/25", "x"}, "address 192.0.2.1/24 of eth0"},
			{[]string{"run", "--rm", "--network", "web", "-p", "[fe80::1]:8080:80", lab.Image, "true"}, "link-local"},
			{[]string{"run", "--rm", "--network", "web", "-p", "192.0.2.99:8080:80", lab.Image, "true"}, "no such address"},
		} {
			if out, err := s.TryDocker(row.args...); err == nil || !strings.Contains(err.Error(), row.want) {
				s.t.Errorf("docker %s: want an error that names %q, got %v%s", strings.Join(row.args, " "), row.want, err, out)
			}
		}
		defer s.Host.Serve("tcp", ":6000").Close()
		if _, err := s.TryDocker("run", "--rm", "--network", "web", "-p", "6000:80", lab.Image, "true"); err == nil || !strings.Contains(err.Error(), "6000") {
			s.t.Errorf("a port that is taken: want an error that names it, got %v", err)
		}
	})
}
