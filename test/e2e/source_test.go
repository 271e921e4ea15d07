package e2e

import "testing"

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

// TestEngineContainersGoOutByTheAddressOfChoice chooses one that the host itself would
// not, as another network shows.
func TestEngineContainersGoOutByTheAddressOfChoice(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Host.Run("ip", "addr", "add", "192.0.2.77/24", "dev", "eth0")
		s.Host.Run("ip", "addr", "add", "2001:db8:1::77/64", "dev", "eth0", "nodad", "preferred_lft", "0")
		s.twoOn("com.docker.network.host_ipv4=192.0.2.77", "com.docker.network.host_ipv6=2001:db8:1::77")
		s.dual("other", "172.30.2.0/24", "fd00:30:2::/64")
		s.Run("d1", "--network", "other")
		for name, chosen := range map[string]string{"IPv4": "192.0.2.77", "IPv6": "2001:db8:1::77"} {
			f := both[name]
			for _, network := range []string{"tcp", "udp"} {
				s.sees(name, s.MustReach("c2", network, join(f.internet, "80"), "outside").Client, chosen)
			}
			s.sees(name+" of another network", s.MustReach("d1", "tcp", join(f.internet, "80"), "outside").Client, f.host(s))
			s.sees(name+" from a peer", s.MustReach("c2", "tcp", join(f.host(s), "8080"), "c1").Client, f.gateway)
			for _, address := range []string{chosen, f.host(s)} {
				s.sees(name+" from outside", s.Outside.MustReach("tcp", join(address, "8080"), "c1"), f.outside(s))
			}
		}
		s.Host.Run("ip", "addr", "del", "192.0.2.77/24", "dev", "eth0")
		s.Host.Run("ip", "addr", "del", "2001:db8:1::77/64", "dev", "eth0")
	})
}

// TestEngineTheGatewayMayBeAnotherMachine has a router as one more port of the bridge,
// which has no address of IPv4 itself, and all that it ever had of IPv6.
func TestEngineTheGatewayMayBeAnotherMachine(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.twoOn(bridgeKey+"inhibit_ipv4=true", bridgeKey+"name=br-web")
		if out := s.Host.Run("ip", "-4", "-o", "addr", "show", "dev", "br-web"); out != "" {
			s.t.Errorf("the bridge has an address: %s", out)
		}
		s.Cable("router0", s.Host, s.Neighbour)
		s.Host.Run("ip", "link", "set", "router0", "up", "master", "br-web")
		s.Neighbour.Run("ip", "link", "set", "router0", "up")
		s.Neighbour.Run("ip", "addr", "add", "172.30.1.1/24", "dev", "router0")
		s.Neighbour.Set("net/ipv4/ip_forward", "1")
		s.Outside.Run("ip", "route", "add", "172.30.1.0/24", "via", s.Neighbour.Addr.String())
		s.Neighbour.Serve("tcp", "172.30.1.1:80")

		c1, c2 := s.address("c1", "web"), s.address("c2", "web")
		s.MustReach("c1", "tcp", "c2:80", "c2")
		s.sees("the router", s.MustReach("c1", "tcp", "172.30.1.1:80", "neighbour").Client, c1)
		s.sees("by the router", s.MustReach("c2", "tcp", join(both["IPv4"].internet, "80"), "outside").Client, c2)
		s.Outside.MustReach("tcp", join(c1, "80"), "c1")

		host6 := both["IPv6"].host(s)
		s.sees("by the host", s.MustReach("c2", "tcp", join(both["IPv6"].internet, "80"), "outside").Client, host6)
		s.Outside.MustReach("tcp", join(host6, "8080"), "c1")
		s.Host.Run("ip", "link", "del", "router0")
	})
}
