package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// eachPlugin runs a scenario on each engine with Drawbridge as a managed plugin. Once
// that is disabled the host is as it was, without a command of Drawbridge's.
func eachPlugin(t *testing.T, flags []string, prepare, scenario func(s *site)) {
	t.Helper()
	eachSite(t, flags, func(s *site) {
		s.driver = lab.PluginName
		warmUp(s)
		prepare(s)
		before := s.Host.Snapshot()
		s.CreatePlugin()
		s.EnablePlugin()
		scenario(s)
		s.removeAll()
		s.hasNothing()
		s.Docker("plugin", "disable", s.driver)
		s.Docker("plugin", "rm", s.driver)
		s.equals(before)
	})
}

func TestEnginePluginDoesTheMainJob(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		s.mainJob()
		s.removeAll()
		for _, clients := range s.Clients() {
			s.UseClients(clients)
			s.composeServicesFindEachOther()
		}
	})
}

// TestEnginePluginGivesAddressesToOtherDrivers and its networks take Docker's.
func TestEnginePluginGivesAddressesToOtherDrivers(t *testing.T) {
	eachPlugin(t, nil, warmUpIPv6, func(s *site) {
		s.Docker("network", "create", "-d", "bridge", "--ipam-driver", s.driver, "--ipv6", "chosen")
		s.isFrom(s.subnets("chosen")[0], 24, "172.30.0.0/16")
		s.isFrom(s.subnets("chosen")[1], 64, ula)
		s.Run("c1", "--network", "chosen", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.Docker("network", "create", "-d", s.driver, "--subnet", "172.31.1.0/24", "theirs")
		s.Run("c2", "--network", "theirs", "-p", "8081:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8081", "c2")
	})
}

func TestEnginePluginMovesInterfacesIntoUserNamespaces(t *testing.T) {
	eachPlugin(t, []string{"--userns-remap=" + lab.RemapUser}, asItCame, (*site).mainJob)
}

// TestEnginePluginServesNetworksOfASwarm is about networks that an engine does not keep:
// a node makes one anew when the first container needs it, and removes it after the last.
func TestEnginePluginServesNetworksOfASwarm(t *testing.T) {
	const join, leave = "swarm init --advertise-addr 192.0.2.1", "swarm leave --force"
	was := func(s *site) {
		s.Docker(strings.Fields(join)...)
		// Who leaves sooner leaves an endpoint behind that the engine then goes on to make.
		lab.Until(s.t, "the swarm's own network is made", func() error {
			out, err := s.TryDocker("network", "inspect", "docker_gwbridge")
			if err == nil && !strings.Contains(out, "ingress-sbox") {
				err = errors.New(out)
			}
			return err
		})
		s.Docker(strings.Fields(leave)...)
		s.Docker("network", "rm", "docker_gwbridge")
	}
	eachPlugin(t, nil, was, func(s *site) {
		s.Docker(strings.Fields(join)...)
		s.Docker("network", "create", "--config-only", "--subnet", "172.30.1.0/24", "here")
		s.Docker("network", "create", "-d", s.driver, "--scope", "swarm", "--config-from", "here", "--attachable", "web")
		s.hasNothing()
		s.Run("c1", "--network", "web", "-p", "8080:80", "--restart", "always")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		restartDocker(s)
		s.comesBack("c1 after the engine's restart")
		s.knowsEndpoints(1)
		s.Docker("rm", "-f", "c1")
		lab.Until(s.t, "the node removes the network after its last container", func() error {
			out, err := s.Drawbridge("networks", "--json")
			if err == nil && strings.TrimSpace(out) != "[]" {
				err = errors.New(out)
			}
			return err
		})
		s.Docker("network", "rm", "web")
		s.Docker("network", "rm", "here")
		s.Docker(strings.Fields(leave)...)
	})
}

// TestEnginePluginHasFewRights is about what the plugin's process may do: an engine's
// containers may as much, save for CAP_NET_ADMIN in the host's network.
func TestEnginePluginHasFewRights(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		const dockersOwn, netAdmin = 0xa80425fb, 1 << 12
		status, err := s.Try("cat", "/proc/"+s.PluginPid()+"/status")
		if err != nil {
			s.t.Fatal(err)
		}
		if want := "CapEff:\t00000000a80435fb"; dockersOwn|netAdmin != 0xa80435fb || !strings.Contains(status, want) {
			s.t.Errorf("want %s, got\n%s", want, status)
		}
		for line := range strings.Lines(s.DaemonLog()) {
			if strings.Contains(line, " plugin=") && strings.Contains(line, "level=error") && strings.Contains(line, "level=info") {
				s.t.Errorf("the engine takes for an error what is none: %s", line)
			}
		}
	})
}

// TestEnginePluginTellsNeighboursWhoHasAnAddressNow takes a raw socket, as any container
// may open one. A neighbour that was not told would send to the last one for a while.
func TestEnginePluginTellsNeighboursWhoHasAnAddressNow(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("peer", "--network", "web")
		for _, mac := range []string{"02:00:5e:00:53:01", "02:00:5e:00:53:02"} {
			s.Run("c1", "--network", "web", "--ip", "172.30.1.77", "--ip6", "fd00:30:1::77", "--mac-address", mac)
			for _, address := range []string{"172.30.1.77:80", "[fd00:30:1::77]:80"} {
				s.MustReach("peer", "tcp", address, "c1")
				s.Host.MustReach("tcp", address, "c1")
			}
			s.Docker("rm", "-f", "c1")
		}
	})
}

func TestEnginePluginComesBackWithItsEngine(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		s.webAndOther("--restart", "always")
		s.Run("named", "--network", "web", "--ip", "172.30.1.77", "--restart", "always")
		show := func() {
			s.t.Helper()
			s.serveAgain("c1", "c2", "d1", "named")
			s.MustReach("c2", "tcp", "172.30.1.77:80", "named")
			s.doesMainJob()
			s.knowsEndpoints(4)
		}
		restartDocker(s)
		show()
		s.KillDocker()
		s.startDockerAfterAKill()
		show()
	})
}

// TestEnginePluginAndAnEngineKilledAmidRequests: nobody tells a plugin that its engine is
// another one than before, and what the one before was given must be free all the same.
func TestEnginePluginAndAnEngineKilledAmidRequests(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		for _, method := range []string{"RequestAddress", "CreateEndpoint", "Join", "ProgramExternalConnectivity"} {
			args := []string{"--network", "web", "-p", "8080:80", "--ip", "172.30.1.10"}
			before := strings.Count(s.DaemonLog(), method)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = s.TryDocker(append(append([]string{"run", "-d", "--name", "c1"}, args...), lab.Image)...)
			}()
			lab.Until(s.t, "the request of "+method, func() error {
				if strings.Count(s.DaemonLog(), method) == before {
					return errors.New("it has not come")
				}
				return nil
			})
			s.KillDocker()
			<-ended
			s.startDockerAfterAKill()
			s.Docker("rm", "-f", "c1")
			s.Run("c1", args...)
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
			s.Docker("rm", "-f", "c1")
			s.knowsEndpoints(0)
		}
	})
}

func TestEnginePluginGoesOnWithoutItsEngine(t *testing.T) {
	eachPlugin(t, []string{"--live-restore"}, asItCame, func(s *site) {
		s.webAndOther()
		flow := s.Outside.Dial("tcp", "192.0.2.1:8080")
		pid := s.PluginPid()
		s.StopDocker()
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		if _, err := s.Drawbridge("status"); err != nil {
			s.t.Errorf("without an engine: %v", err)
		}
		s.StartDocker()
		if got := s.PluginPid(); got != pid {
			s.t.Errorf("the plugin was process %s and is %s", pid, got)
		}
		s.doesMainJob()
		s.knowsEndpoints(3)
		s.Run("c3", "--network", "web", "-p", "8090:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8090", "c3")
		s.MustReach("c3", "tcp", "c1:80", "c1")
		if _, err := flow.Ask(hello.Patience); err != nil {
			s.t.Errorf("a connection broke: %v", err)
		}
		s.removeAll()
		restartDocker(s) // which finds no container, and orders its rules as before
	})
}

func TestEnginePluginComesBackAfterABoot(t *testing.T) {
	boot := func(s *site) {
		s.Reboot()
		s.StartDocker()
	}
	eachPlugin(t, nil, boot, func(s *site) {
		s.webAndOther("--restart", "always")
		s.Reboot()
		s.StartDocker()
		s.serveAgain("c1", "c2", "d1")
		s.doesMainJob()
		s.knowsEndpoints(3)
	})
}

// TestEnginePluginIsKilledAndDisabled goes through what may happen to the plugin alone.
// An engine asks for capabilities whenever the plugin begins, and each time it must be
// told.
func TestEnginePluginIsKilledAndDisabled(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		s.webAndOther()
		flow := s.Outside.Dial("tcp", "192.0.2.1:8080")
		asked := func() int { return strings.Count(s.DaemonLog(), "method=NetworkDriver.GetCapabilities") }
		begins := func(how string, want int) {
			s.t.Helper()
			lab.Until(s.t, "capabilities are asked for "+how, func() error {
				if got := asked(); got < want {
					return fmt.Errorf("%d times so far, want %d", got, want)
				}
				return nil
			})
		}
		if got := asked(); got != 1 {
			s.t.Errorf("the engine has asked for capabilities %d times", got)
		}
		if _, err := s.Try("kill", "-KILL", s.PluginPid()); err != nil {
			s.t.Fatal(err)
		}
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		begins("when the killed plugin is back", 2)
		s.doesMainJob()

		s.DisablePlugin()
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.Docker("plugin", "set", s.driver, "LOG_LEVEL=debug", "args=--pool 10.64.0.0/12=24")
		s.EnablePlugin()
		begins("when it is enabled again", 3)
		s.doesMainJob()
		s.knowsEndpoints(3)
		if _, err := flow.Ask(hello.Patience); err != nil {
			s.t.Errorf("a connection broke: %v", err)
		}
		s.network("pooled")
		s.Run("c3", "--network", "pooled", "-p", "8090:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8090", "c3")
		if got := s.address("c3", "pooled"); !strings.HasPrefix(got, "10.64.") {
			s.t.Errorf("an address from --pool 10.64.0.0/12=24 is %s", got)
		}
	})
}

// TestEnginePluginWithoutWhichItsEngineStarts has a service there first, as after a boot:
// an engine may not start for want of a plugin, and this one's is only disabled.
func TestEnginePluginWithoutWhichItsEngineStarts(t *testing.T) {
	eachPlugin(t, nil, restartDocker, func(s *site) {
		s.webAndOther()
		s.StopDocker()
		s.StartDaemon()
		s.StartDocker()
		if got := s.inspect("{{.Enabled}}", s.driver); got != "false" {
			s.t.Errorf("beside a service the plugin is enabled: %s", got)
		}
		s.StopDaemon()
		s.EnablePlugin()
		for _, c := range []string{"c1", "c2", "d1"} {
			s.Docker("start", c)
		}
		s.serveAgain("c1", "c2", "d1")
		s.doesMainJob()
	})
}

// TestEnginePluginToleratesNoServiceBesideIt: each would take off the host what it has
// not planned itself.
func TestEnginePluginToleratesNoServiceBesideIt(t *testing.T) {
	eachPlugin(t, nil, asItCame, func(s *site) {
		out, err := s.Drawbridge("serve", "--state-dir", filepath.Join(s.Dir(), "service"))
		if err == nil || !strings.Contains(err.Error(), "another drawbridge works on this host") {
			s.t.Errorf("a service starts beside a plugin: %v%s", err, out)
		}
	})
}
