package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineUplinksForwardForContainersOnly is about a host that forwards nothing:
// its uplinks, one of which comes late, serve containers and do not become a router
// between themselves.
func TestEngineUplinksForwardForContainersOnly(t *testing.T) {
	closed := func(s *site) {
		s.Host.Set("net/ipv4/ip_forward", "0")
		s.policy("ACCEPT", "ACCEPT")
	}
	eachEngineAfter(t, closed, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Cable("eth1", s.Host, s.Outside)
		for i, h := range []*lab.Host{s.Host, s.Outside} {
			h.Run("ip", "addr", "add", fmt.Sprintf("203.0.113.%d/24", i+1), "dev", "eth1")
			h.Run("ip", "addr", "add", fmt.Sprintf("2001:db8:7::%d/64", i+1), "dev", "eth1", "nodad")
			h.Run("ip", "link", "set", "eth1", "up")
		}
		lab.Until(s.t, "eth1 forwards", func() error { return s.uplinksForward("1", "eth0", "eth1") })
		s.Neighbour.Route(netip.MustParsePrefix("203.0.113.0/24"), s.Host)
		s.Neighbour.Route(netip.MustParsePrefix("2001:db8:7::/64"), s.Host)
		s.Outside.Run("ip", "route", "add", s.Neighbour.Addr.String(), "via", "203.0.113.1")
		s.Outside.Run("ip", "route", "add", s.Neighbour.Addr6.String(), "via", "2001:db8:7::1")
		for host, outside := range map[string]string{"203.0.113.1": "203.0.113.2", "2001:db8:7::1": "2001:db8:7::2"} {
			s.MustReach("c1", "tcp", join(outside, "80"), "outside")
			s.Outside.MustReach("tcp", join(host, "8080"), "c1")
			s.Neighbour.MustNotReach("tcp", join(outside, "80"), hello.Drop)
		}

		s.removeAll()
		if err := s.uplinksForward("0", "eth0", "eth1"); err != nil {
			s.t.Errorf("after the last network went: %v", err)
		}
		s.Host.Run("ip", "link", "del", "eth1")
	})
}

// uplinksForward returns an error unless all switches of the uplinks have this value.
// Before Linux 6.17 IPv6 has but one for the whole host.
func (s *site) uplinksForward(want string, uplinks ...string) error {
	for _, uplink := range uplinks {
		for _, pattern := range []string{"net/ipv4/conf/%s/forwarding", "net/ipv6/conf/%s/force_forwarding"} {
			key := fmt.Sprintf(pattern, uplink)
			if _, err := s.Host.Try("test", "-e", "/proc/sys/"+key); err != nil {
				continue
			}
			if got := s.Host.Sysctl(key); got != want {
				return fmt.Errorf("%s is %s, want %s", key, got, want)
			}
		}
	}
	return nil
}

// bootDocker has the engine start on a host whose firewall is empty and that
// forwards nothing, as after a boot.
func bootDocker(s *site) {
	s.StopDocker()
	s.Host.Run("nft", "flush", "ruleset")
	s.Host.Set("net/ipv4/ip_forward", "0")
	s.StartDocker()
}

func TestEngineThatStartsAfterUsDecidesAsWithoutUs(t *testing.T) {
	eachEngineAfter(t, bootDocker, func(s *site) {
		found4, found6 := policies(s)
		s.network("web", "--subnet", "172.30.1.0/24")
		bootDocker(s)
		if got4, got6 := policies(s); got4 != found4 || got6 != found6 {
			s.t.Errorf("policies of FORWARD are %s and %s with us, and %s and %s without", got4, got6, found4, found6)
		}
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
	})
}
