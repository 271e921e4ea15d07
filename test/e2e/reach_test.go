package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestEngineContainersReachEachOtherTheHostAndTheWorld(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.webAndOther()
		s.containersReach()
	})
}

func TestEngineLoopbackPublishedPortIsTheHostsAlone(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "127.0.0.1:8080:80", "-p", "127.0.0.1:8080:80/udp", "-p", "9000-9009:9000-9009",
			"-p", "192.0.2.1:8081:80")
		s.Run("c2", "--network", "web", "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.conf.all.route_localnet=1")
		s.Host.MustReach("tcp", "127.0.0.1:8080", "c1")
		s.Host.MustReach("udp", "127.0.0.1:8080", "c1")
		s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
		s.Outside.MustReach("tcp", "192.0.2.1:8081", "c1")
		s.Host.MustNotReach("tcp", "127.0.0.1:8081", hello.Refuse)
		s.MustNotReach("c2", "tcp", "172.30.1.1:8081", hello.Refuse)

		// Who sends packets for 127.0.0.1 to the host's own MAC: a neighbour, a container.
		defer s.Host.Serve("tcp", "127.0.0.1:7000").Close()
		s.Neighbour.Set("net/ipv4/conf/eth0/route_localnet", "1")
		for _, args := range loopbackVia(s.Host.Addr.String(), s.Neighbour.Addr.String()) {
			s.Neighbour.Run("ip", args...)
		}
		for _, args := range loopbackVia("172.30.1.1", s.address("c2", "web")) {
			s.Docker(append([]string{"exec", "c2", "ip"}, args...)...)
		}
		for _, port := range []string{"8080", "7000"} {
			s.Neighbour.MustNotReach("tcp", "127.0.0.1:"+port, hello.Drop)
			s.MustNotReach("c2", "tcp", "127.0.0.1:"+port, hello.Drop)
		}
		s.Neighbour.MustNotReach("udp", "127.0.0.1:8080", hello.Drop)
		s.showsPorts("c1", "127.0.0.1:8080->80/tcp", "0.0.0.0:9000-9009->9000-9009/tcp")
		s.Docker("exec", "-d", "c1", "peer", "serve", "tcp:9009")
		lab.Until(s.t, "the range's last port answers", func() error {
			_, err := s.Outside.Ask("tcp", "192.0.2.1:9009")
			return err
		})
	})
}

// loopbackVia are the commands of ip after which a machine takes 127.0.0.0/8 for
// something behind a gateway.
func loopbackVia(gateway, source string) [][]string {
	return [][]string{
		{"route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"},
		{"route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"},
		{"route", "add", "127.0.0.0/8", "via", gateway, "src", source},
	}
}

func TestEngineNetworksAreIsolated(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.webAndOther()
		s.networksAreIsolated()
	})
}

// TestEngineUnpublishedPortsAreClosed goes through both policies of FORWARD that an
// engine leaves: it sets DROP where it found forwarding off, as here.
func TestEngineUnpublishedPortsAreClosed(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.webAndOther()
		s.dockersOwn("docker")
		s.Run("k1", "--network", "docker", "-p", "7070:80")
		s.Neighbour.Route(netip.MustParsePrefix("172.30.0.0/16"), s.Host)
		s.Neighbour.Route(netip.MustParsePrefix("fd00:30::/32"), s.Host)
		found4, found6 := policies(s)
		for _, policy := range []string{"DROP", "ACCEPT"} {
			s.policy(policy, policy)
			s.settled()
			for _, f := range both {
				c1 := f.address(s, "c1", "web")
				s.Neighbour.MustNotReach("tcp", join(c1, "80"), hello.Drop)
				s.Neighbour.MustNotReach("udp", join(c1, "80"), hello.Drop)
				s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
				s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")

				k1 := f.address(s, "k1", "docker")
				s.MustNotReach("k1", "tcp", join(c1, "80"), hello.Drop)
				s.MustNotReach("c1", "tcp", join(k1, "80"), hello.Drop)
				s.sees("from Docker's network to our published port",
					s.MustReach("k1", "tcp", join(f.host(s), "8080"), "c1").Client, s.seenFromDocker(k1, f.gateway))
				s.MustReach("c1", "tcp", join(f.host(s), "7070"), "k1")
			}
		}
		s.policy(found4, found6)
		s.settled()
	})
}

// seenFromDocker is what our container sees of a client on a network of Docker's. An
// engine from 28 on drops, ahead of all translation, whatever comes directly for its
// containers, so there the answer can only come back through the host.
func (s *site) seenFromDocker(client, gateway string) string {
	if s.Version() == lab.Oldest {
		return client
	}
	return gateway
}

// dockersOwn creates a network of Docker's with both families.
func (s *site) dockersOwn(name string) {
	s.t.Helper()
	s.Docker("network", "create", "--ipv6", "--subnet", "172.31.9.0/24", "--subnet", "fd00:31:9::/64", name)
}

// warmUpIPv6 has the engine publish a port on a network of both families: it turns
// forwarding on then, and both tools leave their tables behind.
func warmUpIPv6(s *site) {
	s.dockersOwn("warm")
	s.Run("warm", "--network", "warm", "-p", "1:1")
	s.removeAll()
	s.policy(policies(s))
}

// policies are those of the two FORWARD chains.
func policies(s *site) (ipv4, ipv6 string) {
	s.t.Helper()
	first := func(tool string) string {
		line, _, _ := strings.Cut(s.Host.Run(tool, "-S", "FORWARD"), "\n")
		return strings.TrimPrefix(line, "-P FORWARD ")
	}
	return first("iptables-nft"), first("ip6tables-nft")
}

// policy sets both.
func (s *site) policy(ipv4, ipv6 string) {
	s.t.Helper()
	s.Host.Run("iptables-nft", "-P", "FORWARD", ipv4)
	s.Host.Run("ip6tables-nft", "-P", "FORWARD", ipv6)
}

// settled waits until the daemon has taken in what the host has become.
func (s *site) settled() {
	s.t.Helper()
	lab.Until(s.t, "the host is as planned", func() error {
		_, err := s.Drawbridge("status")
		return err
	})
}

func TestEngineHostsServicesAnswerContainers(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		defer s.Host.Serve("tcp", ":7000").Close()
		s.Run("c1", "--network", "web", "--add-host", "host.docker.internal:host-gateway")
		for _, address := range []string{"172.30.1.1:7000", "[fd00:30:1::1]:7000", "192.0.2.1:7000", "[2001:db8:1::1]:7000"} {
			s.sees(address, s.MustReach("c1", "tcp", address, "host").Client, s.ownFor("c1", address))
		}
		// host-gateway is the address of docker0.
		s.MustReach("c1", "tcp", "host.docker.internal:7000", "host")
	})
}

// ownFor is the container's address of the family of another address.
func (s *site) ownFor(container, address string) string {
	s.t.Helper()
	if strings.HasPrefix(address, "[") {
		return s.address6(container, "web")
	}
	return s.address(container, "web")
}

func TestEngineInternalNetworkIsClosedBothWays(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("db", "--internal", "--ipv6", "--subnet", "172.30.3.0/24", "--subnet", "fd00:30:3::/64")
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("i1", "--network", "db", "-p", "8080:80", "--cap-add", "NET_ADMIN")
		s.Run("i2", "--network", "db")
		s.Run("c1", "--network", "web", "-p", "9090:80")
		s.MustReach("i2", "tcp", "i1:80", "i1")
		s.goesBy("i1", "", "")
		// Even with a route of its own making nothing leaves, nor by a published port.
		s.Docker("exec", "i1", "ip", "route", "add", "default", "via", "172.30.3.1")
		s.Docker("exec", "i1", "ip", "-6", "route", "add", "default", "via", "fd00:30:3::1")
		for _, f := range both {
			i1 := join(f.address(s, "i1", "db"), "80")
			s.MustReach("i2", "tcp", i1, "i1")
			s.Host.MustReach("tcp", i1, "i1")
			s.Outside.MustNotReach("tcp", join(f.host(s), "8080"), hello.Refuse)
			s.MustNotReach("c1", "tcp", i1, hello.Drop)
			s.MustNotReach("i1", "tcp", join(f.internet, "80"), hello.Drop)
			s.MustNotReach("i1", "tcp", join(f.host(s), "9090"), hello.Drop)
			s.MustNotReach("i1", "tcp", join(f.address(s, "c1", "web"), "80"), hello.Drop)
		}
	})
}
