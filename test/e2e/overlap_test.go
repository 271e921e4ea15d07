package e2e

import (
	"strings"
	"testing"
)

// TestEngineNamedSubnetsOverlapNothingOfTheHosts is about what a host or another
// network has on a link, whosever IPAM gives the addresses.
func TestEngineNamedSubnetsOverlapNothingOfTheHosts(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.Host.Run("ip", "link", "add", "lan0", "type", "veth", "peer", "lan1")
		s.Host.Run("ip", "link", "set", "lan1", "up")
		s.Host.Run("ip", "link", "set", "lan0", "up")
		s.Host.Run("ip", "addr", "add", "10.9.0.1/24", "dev", "lan0")
		s.Host.Run("ip", "addr", "add", "fd00:9::1/64", "dev", "lan0", "nodad")
		s.Host.Run("ip", "route", "add", "10.8.0.0/24", "dev", "lan0")
		s.Host.Run("ip", "route", "add", "fd00:8::/64", "dev", "lan0")
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.dockersOwn("docker")
		web, docker := "network "+s.inspect("{{.Id}}", "web")[:12], "br-"+s.inspect("{{.Id}}", "docker")[:12]
		for _, row := range []struct{ subnet, ipam, thing string }{
			{"10.9.0.128/25", "", "address 10.9.0.1/24 of lan0"},
			{"10.9.0.128/25", "default", "address 10.9.0.1/24 of lan0"},
			{"10.8.0.0/16", "", "route 10.8.0.0/24 by lan0"},
			{"10.8.0.0/16", "default", "route 10.8.0.0/24 by lan0"},
			{"192.0.2.0/26", "", "address 192.0.2.1/24 of eth0"},
			{"172.17.128.0/17", "", "172.17.0.1/16 of docker0"},
			{"172.31.0.0/16", "", "address 172.31.9.1/24 of " + docker},
			{"172.30.0.0/16", "", "172.30.1.0/24"},
			{"172.30.0.0/16", "default", "subnet 172.30.1.0/24 of " + web},
			{"fd00:9::/80", "", "address fd00:9::1/64 of lan0"},
			{"fd00:8::/48", "", "route fd00:8::/64 by lan0"},
			{"fd00:8::/48", "default", "route fd00:8::/64 by lan0"},
			{"2001:db8:1::/64", "", "address 2001:db8:1::1/64 of eth0"},
			{"fd00:31::/32", "", "address fd00:31:9::1/64 of " + docker},
			{"fd00:30::/32", "", "fd00:30:1::/64"},
			{"fd00:30::/32", "default", "subnet fd00:30:1::/64 of " + web},
		} {
			if err := s.named(row.subnet, row.ipam); err == nil || !strings.Contains(err.Error(), row.thing) {
				s.t.Errorf("subnet %s, IPAM %q: want an error that names %q, got %v", row.subnet, row.ipam, row.thing, err)
			}
		}
		// What was refused holds nothing.
		s.Host.Run("ip", "link", "del", "lan0")
		for _, subnet := range []string{"10.9.0.128/25", "10.8.0.0/16", "fd00:9::/80", "fd00:8::/48"} {
			if err := s.named(subnet, ""); err != nil {
				s.t.Errorf("subnet %s when nothing is in the way any more: %v", subnet, err)
			}
			s.Docker("network", "rm", "named")
		}
	})
}

// named makes network named with one subnet, from our IPAM unless told otherwise.
func (s *site) named(subnet, ipam string) error {
	args := []string{"network", "create", "-d", "drawbridge", "--subnet", subnet}
	if ipam == "" {
		ipam = "drawbridge"
	}
	if strings.Contains(subnet, ":") {
		args = append(args, "--ipv6")
		if ipam == "default" {
			args = append(args, "--subnet", "172.29.0.0/24") // else it takes what we have
		}
	}
	return s.try(append(args, "--ipam-driver", ipam, "named")...)
}

// TestEngineNamedSubnetsMayLieInAWiderRoute is about a VPN's or a company's routes: by
// a router, or into a tunnel, which has none.
func TestEngineNamedSubnetsMayLieInAWiderRoute(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.Host.Run("ip", "tuntap", "add", "vpn0", "mode", "tun")
		s.Host.Run("ip", "link", "set", "vpn0", "up")
		s.Host.Run("ip", "addr", "add", "10.64.0.1/32", "dev", "vpn0")
		s.Host.Run("ip", "route", "add", "10.0.0.0/8", "dev", "vpn0")
		s.Host.Run("ip", "route", "add", "172.28.0.0/14", "via", s.Neighbour.Addr.String())
		s.Host.Run("ip", "route", "add", "172.30.1.64/26", "via", s.Neighbour.Addr.String())
		s.Host.Run("ip", "route", "add", "fd00::/16", "via", s.Neighbour.Addr6.String())
		s.Host.Run("ip", "route", "add", "100.64.0.0/16", "dev", "vpn0")
		for subnet, thing := range map[string]string{
			"100.64.0.0/16": "route 100.64.0.0/16 by vpn0",
			"100.64.0.0/10": "route 100.64.0.0/16 by vpn0",
			"10.64.0.0/24":  "address 10.64.0.1/32 of vpn0",
			"10.64.0.0/10":  "address 10.64.0.1/32 of vpn0",
		} {
			if err := s.named(subnet, ""); err == nil || !strings.Contains(err.Error(), thing) {
				s.t.Errorf("subnet %s: want an error that names %q, got %v", subnet, thing, err)
			}
		}
		s.network("inside", "--subnet", "10.77.0.0/24")
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		warnings := []string{
			"subnet 10.77.0.0/24 overlaps route 10.0.0.0/8 by vpn0",
			"subnet 172.30.1.0/24 overlaps route 172.28.0.0/14 by eth0",
			"subnet 172.30.1.0/24 overlaps route 172.30.1.64/26 by eth0",
			"subnet fd00:30:1::/64 overlaps route fd00::/16 by eth0",
		}
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Run("c2", "--network", "web")
		s.Run("i1", "--network", "inside", "-p", "8081:80")
		s.serves8080()
		s.MustReach("c2", "tcp", join(s.address6("c1", "web"), "80"), "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8081", "i1")
		s.MustReach("i1", "tcp", "198.51.100.1:80", "outside")
		s.StopDaemon()
		log := s.DaemonLog()
		s.StartDaemon()
		for _, w := range warnings {
			if !strings.Contains(log, w) {
				s.t.Errorf("the log does not warn that %s:\n%s", w, log)
			}
			if status := s.status(); !strings.Contains(status, w) {
				s.t.Errorf("status does not warn that %s:\n%s", w, status)
			}
		}
		s.removeAll()
		if status := s.status(); strings.Contains(status, "overlaps") {
			s.t.Errorf("status warns of networks that are gone:\n%s", status)
		}
		for _, route := range []string{"172.28.0.0/14", "172.30.1.64/26", "fd00::/16"} {
			s.Host.Run("ip", "route", "del", route)
		}
		s.Host.Run("ip", "link", "del", "vpn0")
	})
}

// status is what drawbridge status says, which must not complain.
func (s *site) status() string {
	s.t.Helper()
	out, err := s.Drawbridge("status")
	if err != nil {
		s.t.Errorf("status: %v\n%s", err, out)
	}
	return out
}

// TestEngineASubnetMayBeThatOfTheBridgeItAdopts is about a bridge that was there before,
// with the gateway's address.
func TestEngineASubnetMayBeThatOfTheBridgeItAdopts(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.Host.Run("ip", "link", "add", "br-lan", "type", "bridge")
		s.Host.Run("ip", "addr", "add", "172.30.1.1/24", "dev", "br-lan")
		s.Host.Run("ip", "addr", "add", "fd00:30:1::1/64", "dev", "br-lan", "nodad")
		s.Host.Run("ip", "link", "set", "br-lan", "up")
		for _, subnet := range []string{"172.30.0.0/16", "fd00:30::/32"} {
			if err := s.named(subnet, ""); err == nil || !strings.Contains(err.Error(), " of br-lan") {
				s.t.Errorf("subnet %s on another bridge: want an error that names br-lan, got %v", subnet, err)
			}
		}
		s.network("web", "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64", "-o", bridgeKey+"name=br-lan")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.serves8080()
		if status := s.status(); strings.Contains(status, "overlaps") {
			s.t.Errorf("status warns of the network's own bridge:\n%s", status)
		}
		s.removeAll()
		if out := s.Host.Run("ip", "-o", "addr", "show", "dev", "br-lan"); !strings.Contains(out, "172.30.1.1/24") || !strings.Contains(out, "fd00:30:1::1/64") {
			s.t.Errorf("the bridge has lost an address: %s", out)
		}
		s.Host.Run("ip", "link", "del", "br-lan")
	})
}
