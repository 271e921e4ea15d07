package e2e

import (
	"strings"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// family is what differs between the two families in a scenario.
type family struct {
	address  func(s *site, container, network string) string
	host     func(s *site) string // the host's own address
	outside  func(s *site) string
	internet string
	gateway  string // of network web
}

var both = map[string]family{
	"IPv4": {
		address:  (*site).address,
		host:     func(s *site) string { return s.Host.Addr.String() },
		outside:  func(s *site) string { return s.Outside.Addr.String() },
		internet: lab.Internet,
		gateway:  "172.30.1.1",
	},
	"IPv6": {
		address:  (*site).address6,
		host:     func(s *site) string { return s.Host.Addr6.String() },
		outside:  func(s *site) string { return s.Outside.Addr6.String() },
		internet: lab.Internet6,
		gateway:  "fd00:30:1::1",
	},
}

// webAndOther makes two dual-stack networks; c1 publishes its ports 80 as 8080, and
// c2 lives beside it, d1 on the other network. Args are more for docker run.
func (s *site) webAndOther(args ...string) {
	s.t.Helper()
	s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
	s.dual("other", "172.30.2.0/24", "fd00:30:2::/64")
	s.Run("c1", append([]string{"--network", "web", "-p", "8080:80/tcp", "-p", "8080:80/udp"}, args...)...)
	s.Run("c2", append([]string{"--network", "web"}, args...)...)
	s.Run("d1", append([]string{"--network", "other"}, args...)...)
}

// mainJob shows what a network is for, on networks that it creates.
func (s *site) mainJob() {
	s.t.Helper()
	s.webAndOther()
	s.doesMainJob()
}

// doesMainJob shows it on those of webAndOther.
func (s *site) doesMainJob() {
	s.t.Helper()
	s.containersReach()
	s.publishedPortAnswers()
	s.networksAreIsolated()
}

// containersReach is about each other, the host and the world.
func (s *site) containersReach() {
	s.t.Helper()
	s.MustReach("c1", "tcp", "c2:80", "c2")
	s.MustReach("c2", "udp", "c1:80", "c1")
	for name, f := range both {
		c1, c2 := f.address(s, "c1", "web"), f.address(s, "c2", "web")
		got := s.MustReach("c1", "tcp", join(c2, "80"), "c2")
		s.sees(name+" container to container", got.Client, c1)
		s.sees(name+" host to container", s.Host.MustReach("tcp", join(c1, "80"), "c1"), f.gateway)
		for _, network := range []string{"tcp", "udp"} {
			got := s.MustReach("c1", network, join(f.internet, "80"), "outside")
			s.sees(name+" container to the world", got.Client, f.host(s))
		}
	}
}

// publishedPortAnswers wherever it is asked from, and c1 sees who asks.
func (s *site) publishedPortAnswers() {
	s.t.Helper()
	for name, f := range both {
		for _, network := range []string{"tcp", "udp"} {
			port := join(f.host(s), "8080")
			s.sees(name+" from outside", s.Outside.MustReach(network, port, "c1"), f.outside(s))
			s.sees(name+" from the host's own address", s.Host.MustReach(network, port, "c1"), f.host(s))
			s.sees(name+" from another network", s.MustReach("d1", network, port, "c1").Client, f.address(s, "d1", "other"))
			// Client and server on one bridge: the answer must come back through the host.
			s.sees(name+" from a peer", s.MustReach("c2", network, port, "c1").Client, f.gateway)
			s.sees(name+" from the container itself", s.MustReach("c1", network, port, "c1").Client, f.gateway)
		}
	}
	s.sees("from 127.0.0.1", s.Host.MustReach("tcp", "127.0.0.1:8080", "c1"), "172.30.1.1")
	s.sees("from 127.0.0.1", s.Host.MustReach("udp", "127.0.0.1:8080", "c1"), "172.30.1.1")
	s.sees("from ::1", s.Host.MustReach("tcp", "[::1]:8080", "c1"), "fd00:30:1::1")
	s.Outside.MustNotReach("tcp", join(both["IPv4"].host(s), "8081"), hello.Refuse)
	s.showsPorts("c1", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "0.0.0.0:8080->80/udp")
}

// showsPorts fails the test unless drawbridge ps shows these ports for a container.
func (s *site) showsPorts(container string, ports ...string) {
	s.t.Helper()
	out, err := s.Drawbridge("ps", "--docker-socket", "/run/docker.sock")
	if err != nil {
		s.t.Fatalf("ps: %v", err)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, container+" ") {
			continue
		}
		for _, p := range ports {
			if !strings.Contains(line, p) {
				s.t.Errorf("ps: %q does not show %s", line, p)
			}
		}
		return
	}
	s.t.Errorf("ps does not show container %s:\n%s", container, out)
}

// networksAreIsolated is about web and other.
func (s *site) networksAreIsolated() {
	s.t.Helper()
	for _, f := range both {
		s.MustNotReach("d1", "tcp", join(f.address(s, "c1", "web"), "80"), hello.Drop)
		s.MustNotReach("c1", "udp", join(f.address(s, "d1", "other"), "80"), hello.Drop)
	}
	s.MustReach("c1", "tcp", "c2:80", "c2")
}
