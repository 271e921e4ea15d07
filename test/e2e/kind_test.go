package e2e

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineASubnetOfTwoAddressesNeedsNoneOfTheHosts has a bridge without IPv4, among
// containers only and with a router for their gateway.
func TestEngineASubnetOfTwoAddressesNeedsNoneOfTheHosts(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("pair", "--internal", "--subnet", "172.30.1.0/31", "-o", bridgeKey+"inhibit_ipv4=true")
		s.Run("c1", "--network", "pair")
		if s.Version() == lab.Newest { // the other spends one on a gateway that nobody has
			s.Run("c2", "--network", "pair")
			s.MustReach("c1", "tcp", "c2:80", "c2")
			if out := s.inspect("{{json .IPAM.Config}}", "pair"); strings.Contains(out, "Gateway") {
				s.t.Errorf("an address is spent on a gateway that nobody has: %s", out)
			}
		}
		s.goesBy("c1", "", "")
		s.removeAll()

		s.network("line", "--subnet", "172.30.1.0/31", "--gateway", "172.30.1.1", "-o", bridgeKey+"inhibit_ipv4=true")
		s.Run("c1", "--network", "line")
		s.has("c1", "eth0", "172.30.1.0/31")
		s.goesBy("c1", "172.30.1.1", "")
		s.router(s.bridge("line"), "172.30.1.1/31")
		s.Neighbour.Run("ip", "addr", "add", lab.Internet+"/32", "dev", "lo")
		s.Neighbour.Serve("tcp", lab.Internet+":8000")
		s.sees("by the router", s.MustReach("c1", "tcp", lab.Internet+":8000", "neighbour").Client, "172.30.1.0")
		s.Host.Run("ip", "link", "del", "router0")
	})
}

// TestEngineTheHostIsReachedByALinkLocalGateway is about subnets that every packet ends
// in: the gateway leads to the host, and to nowhere else.
func TestEngineTheHostIsReachedByALinkLocalGateway(t *testing.T) {
	eachEngine(t, func(s *site) {
		defer s.Host.Serve("tcp", "[::]:7000").Close()
		for subnet, gateway := range map[string]string{"fe80::/64": "fe80::1", "fe80:1234::/64": "fe80:1234::1"} {
			for _, ipam := range []string{"drawbridge", "default"} {
				s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--ipv6",
					"--subnet", "172.30.1.0/24", "--subnet", subnet, "web")
				s.Run("c1", "--network", "web", "-p", "8080:80")
				s.goesBy("c1", "172.30.1.1", gateway)
				s.MustReach("c1", "tcp", "["+gateway+"%eth0]:7000", "host")
				s.Host.MustReach("tcp", "["+s.address6("c1", "web")+"%"+s.bridge("web")+"]:80", "c1")
				s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
				s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
				s.removeAll()
			}
		}
	})
}

// TestEngineNeighboursKnowWhoHasAnAddressNow has one container after the other at the
// same addresses, each with a MAC of its own. A neighbour that was not told would send to
// the last one for half a minute.
func TestEngineNeighboursKnowWhoHasAnAddressNow(t *testing.T) {
	eachEngine(t, func(s *site) {
		for _, ipam := range []string{"drawbridge", "default"} {
			s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--ipv6",
				"--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64", "web")
			s.Run("peer", "--network", "web")
			for _, mac := range []string{"02:00:5e:00:53:01", "02:00:5e:00:53:02", "02:00:5e:00:53:03"} {
				s.Run("c1", "--network", "web", "--ip", "172.30.1.77", "--ip6", "fd00:30:1::77", "--mac-address", mac)
				for _, address := range []string{"172.30.1.77:80", "[fd00:30:1::77]:80"} {
					s.MustReach("peer", "tcp", address, "c1")
					s.Host.MustReach("tcp", address, "c1")
				}
				s.Docker("rm", "-f", "c1")
			}
			s.removeAll()
		}
	})
}
