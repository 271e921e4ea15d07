package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// zoneFiles are what make install gives firewalld.
var zoneFiles = os.DirFS("../../packaging/firewalld")

// besideFirewalld has firewalld run, in its default zone public, which rejects what is
// forwarded, and an engine that has learnt of it: that has a zone of its own then. The
// engine has no network of its own making: one of 20.10 revives those at each reload.
// firewalld makes the chains of a zone when it is first used and keeps them, until a
// reload.
func besideFirewalld(s *site) {
	s.StopDocker()
	s.InstallZones(zoneFiles)
	s.StartFirewalld()
	s.StartDocker()
	s.FirewallCmd("--reload")
	s.dockerFollows()
	if s.Version() == lab.Newest {
		leavesTables(s) // for mendsAfterReloads
	}
	s.Run("warm", "-p", "1:1")
	lab.Until(s.t, "docker0 knows that nobody else has its address", func() error {
		out, err := s.Host.Try("ip", "address", "show", "dev", "docker0", "tentative")
		if err == nil && out != "" {
			err = fmt.Errorf("not yet: %s", out)
		}
		return err
	})
	s.Docker("rm", "-f", "warm")
	s.FirewallCmd("--zone=drawbridge", "--add-interface=warm")
	s.FirewallCmd("--zone=drawbridge", "--remove-interface=warm")
}

// dockerFollows waits until the engine has done its part after a reload.
func (s *site) dockerFollows() {
	s.t.Helper()
	lab.Until(s.t, "docker0 is back in the engine's zone", func() error {
		zone, err := s.TryFirewallCmd("--get-zone-of-interface=docker0")
		if err == nil && strings.TrimSpace(zone) != "docker" {
			err = fmt.Errorf("it is in %q", zone)
		}
		return err
	})
}

// TestEngineBesideFirewalld tells one story, since an engine that learns of firewalld
// takes its time to start.
func TestEngineBesideFirewalld(t *testing.T) {
	eachEngineAfter(t, besideFirewalld, func(s *site) {
		zones, files := s.FirewallCmd("--list-all-zones"), s.FirewalldFiles()
		s.neighboursKnowTheWay()
		s.webAndOther()
		s.network("open", "--subnet", "172.30.3.0/24", "-o", bridgeKey+"gateway_mode_ipv4=routed")
		s.Run("r1", "--network", "open", "-p", "80:80")
		s.Run("k1", "-p", "7070:80")
		s.zoneOf("web", "drawbridge")
		s.doesMainJob()
		s.stillClosed()
		s.mendsAfterReloads()
		s.Neighbour.MustReach("tcp", join(s.address("r1", "open"), "80"), "r1")
		s.Neighbour.MustNotReach("udp", join(s.address("r1", "open"), "80"), hello.Drop)

		s.administratorDecides()
		s.firewalldHangs()
		s.reloadWithoutOurZone()
		s.restartOfFirewalld()

		s.removeAll()
		if diff := cmp.Diff(zones, s.FirewallCmd("--list-all-zones")); diff != "" {
			s.t.Errorf("zones before there were networks and after (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(files, s.FirewalldFiles()); diff != "" {
			s.t.Errorf("permanent configuration before there were networks and after (-before +after):\n%s", diff)
		}
	})
}

// stillClosed shows that what firewalld accepts opens nothing, and closes nothing of the
// engine's.
func (s *site) stillClosed() {
	s.t.Helper()
	c1 := s.address("c1", "web")
	s.drops("", func() { s.Neighbour.MustNotReach("tcp", join(c1, "80"), hello.Drop) })
	s.MustNotReach("k1", "tcp", join(c1, "80"), hello.Drop)
	s.MustNotReach("c1", "tcp", join(s.address("k1", "bridge"), "80"), hello.Drop)
	s.Outside.MustReach("tcp", "192.0.2.1:7070", "k1")
}

// zoneOf fails the test unless a network's bridge is in this zone.
func (s *site) zoneOf(network, want string) {
	s.t.Helper()
	if got := s.FirewallCmd("--get-zone-of-interface=" + s.bridge(network)); got != want {
		s.t.Errorf("network %s is in zone %s, want %s", network, got, want)
	}
}

// tells waits until status has a note that contains this.
func (s *site) tells(want string) {
	s.t.Helper()
	lab.Until(s.t, "status tells", func() error {
		out, err := s.Drawbridge("status")
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("it lacks %q: %s", want, out)
		}
		return err
	})
}

// administratorDecides is about what he changes at runtime alone: where he puts a bridge,
// there it stays, and what else he changes outlives whatever we do.
func (s *site) administratorDecides() {
	s.t.Helper()
	other := s.bridge("other")
	s.FirewallCmd("--zone=public", "--add-port=7777/tcp")
	s.FirewallCmd("--zone=work", "--change-interface="+other)
	s.tells("bridge " + other + " is in firewalld's zone work")
	s.network("late", "--subnet", "172.30.4.0/24")
	s.FirewallCmd("--zone=drawbridge", "--remove-interface="+s.bridge("late"))
	lab.Until(s.t, "a bridge that was unbound is bound again", func() error {
		_, err := s.TryFirewallCmd("--zone=drawbridge", "--query-interface="+s.bridge("late"))
		return err
	})
	late := s.bridge("late")
	s.KillDaemon()
	s.StartDaemon()
	s.Docker("network", "rm", "late")
	if list := s.FirewallCmd("--list-all-zones"); strings.Contains(list, late) {
		s.t.Errorf("a daemon that was killed does not know what it bound:\n%s", list)
	}
	s.zoneOf("other", "work")
	if ports := s.FirewallCmd("--zone=public", "--list-ports"); ports != "7777/tcp" {
		s.t.Errorf("ports of the administrator: %q", ports)
	}
}

// firewalldHangs shows that no network waits for it, and that what was made meanwhile is
// bound as soon as it answers. The oldest engine itself asks firewalld before it makes a
// network of whatever driver, and waits without limit.
func (s *site) firewalldHangs() {
	s.t.Helper()
	if s.Version() == lab.Oldest {
		return
	}
	s.FreezeFirewalld()
	for i := range 3 {
		began := time.Now()
		s.network(fmt.Sprint("hung", i), "--subnet", fmt.Sprintf("172.30.%d.0/24", 10+i))
		s.t.Logf("a network is made within %d ms while firewalld hangs", time.Since(began).Milliseconds())
	}
	if out, err := s.Drawbridge("status"); err == nil || !strings.Contains(out, "no answer from firewalld") {
		s.t.Errorf("status while firewalld hangs: %v\n%s", err, out)
	}
	s.ThawFirewalld()
	s.settled()
	for i := range 3 {
		s.zoneOf(fmt.Sprint("hung", i), "drawbridge")
		s.Docker("network", "rm", fmt.Sprint("hung", i))
	}
}

// reloadWithoutOurZone is about a firewalld that has never heard of us. A reload takes
// away all that is not permanent, the administrator's choice for network other too, and
// brings nothing back of what was removed.
func (s *site) reloadWithoutOurZone() {
	s.t.Helper()
	s.UninstallZones(zoneFiles)
	s.FirewallCmd("--reload")
	s.isBack("a reload", "trusted", "web", "other", "open")
	s.dockerFollows()
	s.tells("firewalld lacks the zone drawbridge")
	s.stillClosed()
	s.networksAreIsolated()
	s.Neighbour.MustNotReach("tcp", join(s.address("r1", "open"), "80"), hello.Refuse)
}

// isBack waits until containers reach others and are reached as before, and prints how
// long that took. Then these networks' bridges are in a zone, and no others.
func (s *site) isBack(what, zone string, networks ...string) {
	s.t.Helper()
	began := time.Now()
	lab.Until(s.t, "after "+what, func() error {
		if _, err := s.Outside.Ask("tcp", "192.0.2.1:8080"); err != nil {
			return err
		}
		_, err := s.Ask("c1", "tcp", lab.Internet+":80")
		return err
	})
	s.t.Logf("after %s all works again within %d ms", what, time.Since(began).Milliseconds())
	var want []string
	for _, network := range networks {
		want = append(want, s.bridge(network))
	}
	slices.Sort(want)
	lab.Until(s.t, "after "+what, func() error {
		list, err := s.TryFirewallCmd("--zone="+zone, "--list-interfaces")
		got := strings.Fields(list)
		slices.Sort(got)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("in zone %s are %q, want %q", zone, got, want)
		}
		return err
	})
}

// restartOfFirewalld takes it away, and has it start when we are there already.
func (s *site) restartOfFirewalld() {
	s.t.Helper()
	s.StopFirewalld()
	s.settled()
	s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	s.networksAreIsolated()
	s.Docker("rm", "-f", "d1")
	s.Docker("network", "rm", "other")
	s.InstallZones(zoneFiles)
	s.StartFirewalld()
	s.isBack("a start", "drawbridge", "web", "open")
	s.dockerFollows()
}
