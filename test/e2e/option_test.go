package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// link is what a container's kernel says of an interface.
func (s *site) link(container, name string) string {
	s.t.Helper()
	return s.in(container, "ip", "link", "show", "dev", name)
}

func TestEngineOptionsOfANetworkHold(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("big", "--subnet", "172.30.1.0/24",
			"-o", "com.docker.network.driver.mtu=9000", "-o", "com.docker.network.container_iface_prefix=lan")
		s.Run("b1", "--network", "big", "--mac-address", "02:00:5e:00:53:01")
		s.Run("b2", "--network", "big")
		s.MustReach("b2", "tcp", "b1:80", "b1")
		if out := s.link("b1", "lan0"); !strings.Contains(out, "mtu 9000") || !strings.Contains(out, "02:00:5e:00:53:01") {
			s.t.Errorf("MTU or MAC is not as asked: %s", out)
		}
		// IPv6 needs a link of 1280 bytes; the kernel would silently do without it.
		_, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipv6", "--subnet", "172.30.2.0/24", "--subnet", "fd00:30:2::/64",
			"-o", "com.docker.network.driver.mtu=1000", "small")
		if err == nil || !strings.Contains(err.Error(), "com.docker.network.driver.mtu") {
			s.t.Errorf("an MTU too small for IPv6: want an error that names it, got %v", err)
		}
		s.network("small", "--subnet", "172.30.2.0/24", "-o", "com.docker.network.driver.mtu=1000")
	})
}

func TestEngineAddressesAreThoseAskedFor(t *testing.T) {
	eachEngine(t, func(s *site) {
		for _, ipam := range []string{"drawbridge", "default"} {
			s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--subnet", "172.30.0.0/16", "--gateway", "172.30.0.254",
				"--ip-range", "172.30.5.0/24", "--aux-address", "printer=172.30.5.1", "--aux-address", "nas=172.30.5.3", "web")
			s.Run("c1", "--network", "web")
			s.Run("c2", "--network", "web", "--ip", "172.30.7.7")
			s.MustReach("c1", "tcp", "c2:80", "c2")
			s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
			if got := s.gateway("c1", "web"); got != "172.30.0.254" {
				s.t.Errorf("IPAM %s: --gateway 172.30.0.254 gave %s", ipam, got)
			}
			if got := s.address("c2", "web"); got != "172.30.7.7" {
				s.t.Errorf("IPAM %s: --ip 172.30.7.7 gave %s", ipam, got)
			}
			got := netip.MustParseAddr(s.address("c1", "web"))
			if !netip.MustParsePrefix("172.30.5.0/24").Contains(got) || got == netip.MustParseAddr("172.30.5.1") || got == netip.MustParseAddr("172.30.5.3") {
				s.t.Errorf("IPAM %s: c1 has %s", ipam, got)
			}
			for _, taken := range []string{"172.30.0.254", "172.30.5.1", "172.30.7.7"} {
				if out, err := s.TryDocker("run", "--rm", "--network", "web", "--ip", taken, lab.Image, "true"); err == nil {
					s.t.Errorf("IPAM %s: %s was given twice %s", ipam, taken, out)
				}
			}
			s.removeAll()
		}
	})
}
