package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// goesBy fails the test unless these are a container's default gateways, "" for none.
func (s *site) goesBy(container, gateway4, gateway6 string) {
	s.t.Helper()
	for family, want := range map[string]string{"-4": gateway4, "-6": gateway6} {
		got := ""
		for line := range strings.Lines(s.in(container, "ip", family, "route")) {
			if words := strings.Fields(line); len(words) > 2 && words[0] == "default" {
				got += words[2]
			}
		}
		if got != want {
			s.t.Errorf("%s has %q as its default gateway of ip %s, want %q", container, got, family, want)
		}
	}
}

// serves8080 fails the test unless c1 answers on port 8080 of the host by both
// families, and reaches the world.
func (s *site) serves8080() {
	s.t.Helper()
	for name, f := range both {
		s.sees(name, s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1"), f.outside(s))
		s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
	}
}

// webAndBack makes two dual-stack networks; of two without priorities, engines prefer
// the gateway of the one whose name is first.
func (s *site) webAndBack() {
	s.t.Helper()
	s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
	s.dual("back", "172.30.2.0/24", "fd00:30:2::/64")
}

func TestEngineGatewayPriorityDecides(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.webAndBack()
		for _, first := range []string{"web", "back"} {
			number := map[string]string{"web": "1", "back": "2"}[first]
			priority := map[string]int{first: 7}
			shown := func() {
				s.t.Helper()
				s.goesBy("c1", "172.30."+number+".1", "fd00:30:"+number+"::1")
				s.serves8080()
			}
			other := map[string]string{"web": "back", "back": "web"}[first]
			s.Run("c1", "-p", "8080:80", "--network", other)
			s.Docker("network", "connect", "--gw-priority", "7", first, "c1")
			shown()
			s.Docker("rm", "-f", "c1")
			s.Run("c1", "-p", "8080:80",
				"--network", fmt.Sprintf("name=web,gw-priority=%d", priority["web"]),
				"--network", fmt.Sprintf("name=back,gw-priority=%d", priority["back"]))
			shown()
			s.Docker("restart", "-t", "1", "c1")
			s.serveAgain("c1")
			shown()
			s.Docker("rm", "-f", "c1")

			project := fmt.Sprintf(`
services:
  c1:
    image: lab
    hostname: c1
    container_name: c1
    ports: ["8080:80"]
    networks: {web: {gw_priority: %d}, back: {gw_priority: %d}}
networks:
  web: {external: true}
  back: {external: true}
`, priority["web"], priority["back"])
			s.compose(project)
			s.Serves("c1")
			shown()
			s.composeDown(project)
		}
	})
}

func TestEnginePortsMoveWithTheGateway(t *testing.T) {
	eachClients(t, func(s *site) {
		s.webAndBack()
		s.dual("zoo", "172.30.3.0/24", "fd00:30:3::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		for _, step := range []struct{ verb, network, number string }{
			{"connect", "zoo", "1"},
			{"connect", "back", "2"},
			{"disconnect", "web", "2"},
			{"disconnect", "back", "3"},
			{"connect", "web", "1"},
			{"disconnect", "zoo", "1"},
		} {
			s.Docker("network", step.verb, step.network, "c1")
			s.t.Logf("after %s %s", step.verb, step.network)
			s.goesBy("c1", "172.30."+step.number+".1", "fd00:30:"+step.number+"::1")
			s.serves8080()
		}
	})
}

// TestEngineDockersBridgeBesideOurs has a container on a network of Docker's own and
// on one of ours; either may be its gateway.
func TestEngineDockersBridgeBesideOurs(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("c2", "--network", "web")
		for name, gateways := range map[string][2]string{
			"able":  {"172.31.9.1", "fd00:31:9::1"},
			"zebra": {"172.30.1.1", "fd00:30:1::1"},
		} {
			s.dockersOwn(name)
			s.Run("k1", "--network", name)
			show := func(how string) {
				s.t.Helper()
				s.t.Logf("%s: %s", name, how)
				s.goesBy("c1", gateways[0], gateways[1])
				for family, f := range both {
					s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
					if name == "able" && family == "IPv6" && s.Version() == lab.Oldest {
						continue // that engine's own networks have no way out for IPv6
					}
					s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
				}
				s.MustReach("c2", "tcp", "c1:80", "c1")
				s.MustReach("k1", "tcp", "c1:80", "c1")
			}
			s.Run("c1", "--network", "web", "-p", "8080:80")
			s.Docker("network", "connect", name, "c1")
			show("ours, then Docker's")
			s.Docker("restart", "-t", "1", "c1")
			s.serveAgain("c1")
			show("restarted with both")
			s.Docker("rm", "-f", "c1")
			s.Run("c1", "--network", name, "-p", "8080:80")
			s.Docker("network", "connect", "web", "c1")
			show("Docker's, then ours")
			s.Docker("network", "disconnect", name, "c1")
			s.serves8080()
			s.Docker("rm", "-f", "c1", "k1")
			s.Docker("network", "rm", name)
		}
		if out := s.Docker("network", "ls"); strings.Contains(out, "docker_gwbridge") {
			s.t.Errorf("the engine has made a network that nobody needs:\n%s", out)
		}
	})
}

// TestEngineEachFamilyHasItsOwnGateway is about a container that goes out by one
// network with IPv4, and by another with IPv6; either may be Docker's.
func TestEngineEachFamilyHasItsOwnGateway(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.network("web4", "--subnet", "172.30.4.0/24")
		s.network("web6", "--ipv4=false", "--ipv6", "--subnet", "fd00:30:6::/64")
		s.dockersOwn("dock")
		s.Docker("network", "create", "--subnet", "172.31.4.0/24", "dock4")
		for _, row := range []struct{ by4, by6, gateway4, gateway6 string }{
			{"web4", "web", "172.30.4.1", "fd00:30:1::1"},
			{"web4", "web6", "172.30.4.1", "fd00:30:6::1"},
			{"web4", "dock", "172.30.4.1", "fd00:31:9::1"},
			{"dock4", "web", "172.31.4.1", "fd00:30:1::1"},
			{"dock4", "web6", "172.31.4.1", "fd00:30:6::1"},
		} {
			show := func(how string) {
				s.t.Helper()
				s.t.Logf("IPv4 by %s, IPv6 by %s: %s", row.by4, row.by6, how)
				s.goesBy("c1", row.gateway4, row.gateway6)
				s.answers8080()
				for _, f := range both {
					s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
				}
			}
			s.Run("c1", "-p", "8080:80", "--network", "name="+row.by4+",gw-priority=1", "--network", row.by6)
			show("from the start")
			s.Docker("restart", "-t", "1", "c1")
			s.serveAgain("c1")
			show("restarted")
			s.Docker("rm", "-f", "c1")
			s.Run("c1", "-p", "8080:80", "--network", row.by6)
			s.Docker("network", "connect", "--gw-priority", "1", row.by4, "c1")
			show("connected to " + row.by4)
			s.Docker("network", "disconnect", row.by6, "c1")
			s.goesBy("c1", row.gateway4, "")
			s.Outside.MustReach("tcp", join(s.Host.Addr.String(), "8080"), "c1")
			s.Docker("network", "connect", row.by6, "c1")
			show("connected again")
			s.Docker("network", "disconnect", row.by4, "c1")
			if row.by6 == "web6" {
				s.Outside.MustReach("tcp", join(s.Host.Addr6.String(), "8080"), "c1")
			} else {
				s.answers8080()
			}
			s.Docker("rm", "-f", "c1")
		}
	})
}

// answers8080 fails the test unless c1 answers on port 8080 of the host by both families.
func (s *site) answers8080() {
	s.t.Helper()
	for _, f := range both {
		s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
	}
}
