package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// asItCame is for scenarios that need nothing to be done before.
func asItCame(*site) {}

// TestEngineThatLeavesTheHostAloneIsEnough is about an engine that may do nothing to
// the host's network: no bridge, no rule, no forwarding.
func TestEngineThatLeavesTheHostAloneIsEnough(t *testing.T) {
	flags := []string{"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"}
	eachEngineWith(t, flags, asItCame, func(s *site) {
		if got := s.Host.Sysctl("net/ipv4/ip_forward"); got != "0" {
			s.t.Fatalf("the engine has set ip_forward to %s", got)
		}
		s.mainJob()
		s.removeAll()
		s.composeServicesFindEachOther()
	})
}

// TestEngineWithUserNamespacesMovesOurInterfacesToo is about containers whose network
// belongs to a user namespace that has no right on the host's.
func TestEngineWithUserNamespacesMovesOurInterfacesToo(t *testing.T) {
	eachEngineWith(t, []string{"--userns-remap=" + lab.RemapUser}, asItCame, func(s *site) {
		s.mainJob()
		if got := s.Docker("exec", "c1", "cat", "/proc/self/uid_map"); !slices.Equal(strings.Fields(got), []string{"0", "100000", "65536"}) {
			s.t.Errorf("c1 is in no user namespace of its own: %s", got)
		}
		if err := s.ServeRootless(); err == nil || !strings.Contains(err.Error(), "a rootless Docker cannot be served") {
			s.t.Errorf("serve beside a rootless engine: want an error that says so, got %v", err)
		}
	})
}

func TestEngineNetworksAndContainersComeBackAfterABoot(t *testing.T) {
	boot := func(s *site) {
		s.Reboot()
		s.StartDocker()
	}
	eachEngineAfter(t, boot, func(s *site) {
		s.webAndOther("--restart", "always")
		s.ipam = "default"
		s.network("plain", "--subnet", "172.30.3.0/24")
		s.Run("e1", "--network", "plain", "-p", "8082:80", "--restart", "always")
		s.Run("once", "--network", "web", "-p", "8081:80")
		s.Reboot()
		s.StartDaemon()
		for _, address := range []string{"172.30.1.1", "fd00:30:1::1", "172.30.2.1", "fd00:30:2::1", "172.30.3.1"} {
			if out := s.Host.Run("ip", "-brief", "addr"); !strings.Contains(out, " "+address+"/") {
				s.t.Errorf("ahead of the engine the host has no address %s:\n%s", address, out)
			}
		}
		s.knowsEndpoints(0)
		s.StartDocker()
		s.serveAgain("c1", "c2", "d1", "e1")
		s.doesMainJob()
		s.Outside.MustReach("tcp", "192.0.2.1:8082", "e1")
		s.knowsEndpoints(4)
		s.Outside.MustNotReach("tcp", "192.0.2.1:8081", hello.Refuse)
		s.Docker("start", "once")
		s.serveAgain("once")
		s.Outside.MustReach("tcp", "192.0.2.1:8081", "once")
	})
}

// TestEngineThatBootsBeforeUsIsServedLater is about a host where the order of services is
// wrong: the engine gives up on containers whose driver it does not find.
func TestEngineThatBootsBeforeUsIsServedLater(t *testing.T) {
	boot := func(s *site) {
		s.Reboot()
		s.StartDocker()
	}
	eachEngineAfter(t, boot, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80", "--restart", "always")
		s.Reboot()
		s.StartDocker()
		s.StartDaemon()
		s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
		s.Docker("start", "c1")
		s.serveAgain("c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.Run("c2", "--network", "web")
		s.MustReach("c2", "tcp", "c1:80", "c1")
		s.knowsEndpoints(2)
	})
}

// serveAgain waits until containers do whose logs tell of a former life.
func (s *site) serveAgain(containers ...string) {
	s.t.Helper()
	for _, name := range containers {
		lab.Until(s.t, name+" serves again", func() error {
			_, err := s.Ask(name, "tcp", "127.0.0.1:80")
			return err
		})
	}
}

// knowsEndpoints fails the test unless Drawbridge comes to know so many endpoints, and
// no more.
func (s *site) knowsEndpoints(want int) {
	s.t.Helper()
	lab.Until(s.t, "endpoints", func() error {
		out, err := s.Drawbridge("ps", "--json")
		if got := strings.Count(out, `"sandbox"`); err == nil && got != want {
			err = fmt.Errorf("%d are known, want %d: %s", got, want, out)
		}
		return err
	})
}
