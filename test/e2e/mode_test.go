package e2e

import (
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

const bridgeKey = "com.docker.network.bridge."

// neighboursKnowTheWay has the other machines send what is for containers to the host.
func (s *site) neighboursKnowTheWay() {
	s.t.Helper()
	for _, subnets := range []string{"172.30.0.0/16", "fd00:30::/32"} {
		s.Neighbour.Route(netip.MustParsePrefix(subnets), s.Host)
		s.Outside.Route(netip.MustParsePrefix(subnets), s.Host)
	}
}

// twoOn makes network web with both families and two containers, of which c1 publishes
// its port 80 as 8080.
func (s *site) twoOn(options ...string) {
	s.t.Helper()
	args := []string{"--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	s.network("web", args...)
	s.Run("c1", "--network", "web", "-p", "8080:80")
	s.Run("c2", "--network", "web")
}

func TestEngineContainersMayBeKeptApart(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.twoOn(bridgeKey + "enable_icc=false")
		for _, f := range both {
			s.MustNotReach("c2", "tcp", join(f.address(s, "c1", "web"), "80"), hello.Drop)
			s.MustNotReach("c1", "udp", join(f.address(s, "c2", "web"), "80"), hello.Drop)
			s.MustReach("c2", "tcp", join(f.internet, "80"), "outside")
			s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
			s.Host.MustReach("tcp", join(f.address(s, "c2", "web"), "80"), "c2")
		}
	})
}

func TestEngineContainersMayShowTheirOwnAddresses(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.neighboursKnowTheWay()
		s.twoOn(bridgeKey + "enable_ip_masquerade=false")
		for _, f := range both {
			s.sees("c2", s.MustReach("c2", "tcp", join(f.internet, "80"), "outside").Client, f.address(s, "c2", "web"))
			s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
		}
	})
}

// TestEngineTheGatewayMayBeAnotherMachine has a router as one more port of the bridge,
// which has no address of IPv4 itself.
func TestEngineTheGatewayMayBeAnotherMachine(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24", "-o", bridgeKey+"inhibit_ipv4=true", "-o", bridgeKey+"name=br-web")
		s.Run("c1", "--network", "web")
		s.Run("c2", "--network", "web")
		if out := s.Host.Run("ip", "-4", "-o", "addr", "show", "dev", "br-web"); out != "" {
			s.t.Errorf("the bridge has an address: %s", out)
		}
		s.Cable("router0", s.Host, s.Neighbour)
		s.Host.Run("ip", "link", "set", "router0", "up", "master", "br-web")
		s.Neighbour.Run("ip", "link", "set", "router0", "up")
		s.Neighbour.Run("ip", "addr", "add", "172.30.1.1/24", "dev", "router0")
		s.Neighbour.Serve("tcp", "172.30.1.1:80")
		s.MustReach("c1", "tcp", "c2:80", "c2")
		s.MustReach("c1", "tcp", "172.30.1.1:80", "neighbour")
		s.Host.Run("ip", "link", "del", "router0")
	})
}
