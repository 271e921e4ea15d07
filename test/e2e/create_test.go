package e2e

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestEngineNetworksTakeTheirConfigurationFromAnother(t *testing.T) {
	eachClients(t, func(s *site) {
		s.Docker("network", "create", "--config-only", "--ipam-driver", "drawbridge", "--ipv6",
			"--subnet", "172.30.1.0/24", "--ip-range", "172.30.1.128/25", "--gateway", "172.30.1.254",
			"--subnet", "fd00:30:1::/64",
			"-o", "com.docker.network.driver.mtu=1400", "-o", "com.docker.network.container_iface_prefix=lan", "site")
		s.Docker("network", "create", "-d", "drawbridge", "--config-from", "site", "web")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.has("c1", "lan0", "mtu 1400", "172.30.1.128/24", "fd00:30:1::2/64")
		s.goesBy("c1", "172.30.1.254", "fd00:30:1::1")
		s.serves8080()
		s.Docker("rm", "-f", "c1")
		s.Docker("network", "rm", "web")

		s.Docker("network", "create", "-d", "drawbridge", "--config-from", "site", "--internal", "closed")
		s.Run("c1", "--network", "closed")
		s.has("c1", "lan0", "mtu 1400")
		s.goesBy("c1", "", "")
	})
}

func TestEngineNetworksOfComposeHaveTheirOptions(t *testing.T) {
	eachClients(t, func(s *site) {
		const project = `
services:
  c1:
    image: lab
    hostname: c1
    container_name: c1
    ports: ["8080:80"]
    networks: {web: {ipv4_address: 172.30.1.77, ipv6_address: "fd00:30:1::77"}}
  c2: {image: lab, hostname: c2, container_name: c2, networks: [web]}
  d1: {image: lab, hostname: d1, container_name: d1, networks: [db]}
networks:
  web:
    driver: drawbridge
    driver_opts: {com.docker.network.driver.mtu: 1400, com.docker.network.container_iface_prefix: lan}
    enable_ipv6: true
    ipam:
      driver: drawbridge
      config:
        - {subnet: 172.30.1.0/24, ip_range: 172.30.1.128/25, gateway: 172.30.1.254, aux_addresses: {printer: 172.30.1.128}}
        - {subnet: "fd00:30:1::/64"}
  db: {driver: drawbridge, internal: true, ipam: {driver: drawbridge}}
`
		s.compose(project)
		s.Serves("c1")
		s.has("c1", "lan0", "mtu 1400", "172.30.1.77/24", "fd00:30:1::77/64")
		s.has("c2", "lan0", "mtu 1400", "172.30.1.129/24")
		s.goesBy("c1", "172.30.1.254", "fd00:30:1::1")
		s.serves8080()
		s.MustReach("c2", "tcp", "c1:80", "c1")
		s.goesBy("d1", "", "")
		s.composeDown(project)
	})
}

func TestEngineNetworksWithoutIPv4(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		show := func() {
			s.t.Helper()
			if out := s.in("c1", "ip", "-4", "addr", "show", "dev", "eth0"); strings.TrimSpace(out) != "" {
				s.t.Errorf("c1 has IPv4: %s", out)
			}
			s.goesBy("c1", "", "fd00:30:1::1")
			f := both["IPv6"]
			s.sees("IPv6", s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1"), f.outside(s))
			s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
			s.MustReach("c1", "udp", "c2:80", "c2")
		}
		s.network("web", "--ipv4=false", "--ipv6", "--subnet", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Run("c2", "--network", "web")
		show()
		s.removeAll()
		s.Docker("network", "create", "-d", "drawbridge", "--ipv4=false", "--ipv6", "--subnet", "fd00:30:1::/64", "web") // and addresses of Docker's
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Run("c2", "--network", "web")
		show()
		s.removeAll()
		s.network("web", "--ipv4=false", "--ipv6", "--subnet", "fd00:30:2::/64", "--subnet", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80", "--ip6", "fd00:30:1::77")
		s.Run("c2", "--network", "web", "--ip6", "fd00:30:2::77")
		show()
		s.goesBy("c2", "", "fd00:30:2::1")
		s.removeAll()
		s.network("web", "--internal", "--ipv4=false", "--ipv6", "--subnet", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.Run("c2", "--network", "web")
		s.goesBy("c1", "", "")
		s.MustReach("c1", "tcp", "c2:80", "c2")
		s.Outside.MustNotReach("tcp", join(s.Host.Addr6.String(), "8080"), hello.Refuse)
		s.removeAll()
		const project = `
services:
  c1: {image: lab, hostname: c1, container_name: c1, ports: ["8080:80"]}
  c2: {image: lab, hostname: c2, container_name: c2}
networks:
  default:
    driver: drawbridge
    enable_ipv4: false
    enable_ipv6: true
    ipam: {driver: drawbridge, config: [{subnet: "fd00:30:1::/64"}]}
`
		s.compose(project)
		s.Serves("c1")
		s.Serves("c2")
		show()
		s.composeDown(project)
	})
}

func TestEngineNetworksWithSeveralSubnets(t *testing.T) {
	eachClients(t, func(s *site) {
		for _, ipam := range []string{"drawbridge", "default"} {
			s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "172.30.2.0/24",
				"--subnet", "fd00:30:1::/64", "--subnet", "fd00:30:2::/64", "web")
			s.Run("c1", "--network", "web", "--ip", "172.30.1.77", "--ip6", "fd00:30:1::77", "-p", "8080:80")
			s.Run("c2", "--network", "web", "--ip", "172.30.2.77", "--ip6", "fd00:30:2::77", "-p", "8081:80")
			s.goesBy("c1", "172.30.1.1", "fd00:30:1::1")
			s.goesBy("c2", "172.30.2.1", "fd00:30:2::1")
			for name, f := range both {
				s.sees(name, s.MustReach("c1", "tcp", join(f.address(s, "c2", "web"), "80"), "c2").Client, f.address(s, "c1", "web"))
				s.MustReach("c2", "udp", join(f.address(s, "c1", "web"), "80"), "c1")
				s.sees(name, s.Outside.MustReach("tcp", join(f.host(s), "8081"), "c2"), f.outside(s))
				s.MustReach("c2", "tcp", join(f.internet, "80"), "outside")
			}
			s.serves8080()
			s.removeAll()
		}
	})
}
