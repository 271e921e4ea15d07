package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// routes are a container's, of both families.
func (s *site) routes(container string) string {
	s.t.Helper()
	return s.in(container, "ip", "route") + s.in(container, "ip", "-6", "route")
}

func TestEngineNetworksSayWhereTheirPortsArePublished(t *testing.T) {
	eachEngine(t, func(s *site) {
		for i, row := range []struct {
			address  string
			outside  bool // reaches the port by the host's IPv4 address
			outside6 bool // and by that of IPv6
		}{{"127.0.0.1", false, false}, {"0.0.0.0", true, true}, {"::", false, true}, {"192.0.2.1", true, false}} {
			s.network("web", "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64",
				"-o", "com.docker.network.bridge.host_binding_ipv4="+row.address)
			s.Run("c1", "--network", "web", "-p", "8080:80")
			for _, client := range []struct {
				to      string
				reaches bool
			}{{"192.0.2.1:8080", row.outside}, {"[2001:db8:1::1]:8080", row.outside6}} {
				if client.reaches {
					s.Outside.MustReach("tcp", client.to, "c1")
				} else {
					s.Outside.MustNotReach("tcp", client.to, hello.Refuse)
				}
			}
			if i == 0 {
				s.Host.MustReach("tcp", "127.0.0.1:8080", "c1")
			}
			s.removeAll()
		}
	})
}

// TestEngineANetworkMayHaveSeveralSubnets is beyond Docker's bridge, which has one of
// each family.
func TestEngineANetworkMayHaveSeveralSubnets(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--ipv6",
			"--subnet", "172.30.1.0/24", "--gateway", "172.30.1.254", "--subnet", "172.30.9.0/24", "--gateway", "172.30.9.1",
			"--subnet", "fd00:30:1::/64", "--gateway", "fd00:30:1::ff", "--subnet", "fd00:30:9::/64", "--gateway", "fd00:30:9::1")
		s.Run("c1", "--network", "web", "--ip", "172.30.1.7", "--ip6", "fd00:30:1::7", "-p", "8081:80")
		s.Run("c2", "--network", "web", "--ip", "172.30.9.7", "--ip6", "fd00:30:9::7", "-p", "8082:80")
		for container, gateways := range map[string][]string{"c1": {"172.30.1.254", "fd00:30:1::ff"}, "c2": {"172.30.9.1", "fd00:30:9::1"}} {
			for _, gateway := range gateways {
				if got := s.routes(container); !strings.Contains(got, "default via "+gateway+" ") {
					s.t.Errorf("%s should have the gateway %s of its own subnet:\n%s", container, gateway, got)
				}
			}
			s.MustReach(container, "tcp", lab.Internet+":80", "outside")
			s.MustReach(container, "tcp", "["+lab.Internet6+"]:80", "outside")
		}
		s.MustReach("c1", "tcp", "172.30.9.7:80", "c2")
		s.MustReach("c2", "tcp", "[fd00:30:1::7]:80", "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8082", "c2")
		s.Outside.MustReach("tcp", "[2001:db8:1::1]:8081", "c1")
	})
}

// TestEngineFamiliesThatAnEngineDoesNotSwitchByOptionsAreRefused is about engines that
// know flags only: there the option would be without effect.
func TestEngineFamiliesThatAnEngineDoesNotSwitchByOptionsAreRefused(t *testing.T) {
	eachEngine(t, func(s *site) {
		for option, want := range map[string]string{"enable_ipv6=true": "use --ipv6", "enable_ipv4=false": "--ipv4"} {
			err := s.try("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "-o", "com.docker.network."+option, "web")
			if s.Version() == lab.Newest && err != nil || s.Version() == lab.Oldest && (err == nil || !strings.Contains(err.Error(), want)) {
				s.t.Errorf("engine %s, %s: %v", s.Version(), option, err)
			}
			s.removeAll()
		}
	})
}

// TestEngineFamiliesCanBeOptions gives what are flags as options: so a daemon's
// --default-network-opt can.
func TestEngineFamiliesCanBeOptions(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.network("web", "-o", "com.docker.network.enable_ipv6=true", "-o", "com.docker.network.enable_ipv4=false")
		s.Run("c1", "--network", "web")
		if got := s.Docker("exec", "c1", "ip", "addr", "show", "dev", "eth0"); strings.Contains(got, "inet ") || !strings.Contains(got, "scope global") {
			s.t.Errorf("c1 should have IPv6 alone:\n%s", got)
		}
	})
}

// TestEngineNetworksWithoutSubnetsCarryFrames has containers choose their addresses.
func TestEngineNetworksWithoutSubnetsCarryFrames(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", "null", "wire")
		s.carriesFrames("wire")
	})
}

func TestEngineNetworksOfNeitherFamilyCarryFrames(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.Docker("network", "create", "-d", "drawbridge", "--ipv4=false", "wire")
		s.carriesFrames("wire")
	})
}

func (s *site) carriesFrames(network string) {
	s.t.Helper()
	for name, addr := range map[string]string{"c1": "10.66.0.1/24", "c2": "10.66.0.2/24"} {
		s.Run(name, "--network", network, "--cap-add", "NET_ADMIN")
		if out := s.routes(name); strings.Contains(out, "default") {
			s.t.Errorf("%s has a way out:\n%s", name, out)
		}
		s.Docker("exec", name, "ip", "addr", "add", addr, "dev", "eth0")
	}
	s.MustReach("c1", "tcp", "10.66.0.2:80", "c2")
	if out := s.Docker("exec", "c1", "ip", "link"); strings.Contains(out, "eth1") {
		s.t.Errorf("c1 has an interface that nobody asked for:\n%s", out)
	}
	// Whoever makes itself a route finds nobody who forwards.
	s.Host.Run("ip", "addr", "add", "10.66.0.254/24", "dev", s.bridge(network))
	s.Docker("exec", "c1", "ip", "route", "add", "default", "via", "10.66.0.254")
	s.MustNotReach("c1", "tcp", lab.Internet+":80", hello.Drop)
}

// bridge is the name of a network's bridge.
func (s *site) bridge(network string) string {
	s.t.Helper()
	return "dbr" + s.inspect("{{.Id}}", network)[:12]
}

// TestEngineAnAuxiliaryAddressMayBeTheGateway is about the names under which Docker's
// bridge driver knows it. A router beside the containers has that address.
func TestEngineAnAuxiliaryAddressMayBeTheGateway(t *testing.T) {
	eachClients(t, func(s *site) {
		defer s.Neighbour.Serve("tcp", ":8000").Close()
		show := func() {
			s.t.Helper()
			s.goesBy("c1", "172.30.1.200", "fd00:30:1::200")
			s.Host.MustReach("tcp", s.address("c1", "p_web")+":80", "c1")
			s.router(s.bridge("p_web"), "172.30.1.200/24", "fd00:30:1::200/64")
			for _, f := range both {
				s.sees("by the router", s.MustReach("c1", "tcp", join(f.internet, "8000"), "neighbour").Client, f.address(s, "c1", "p_web"))
			}
			s.Host.Run("ip", "link", "del", "router0")
		}
		for _, address := range []string{lab.Internet + "/32", lab.Internet6 + "/128"} {
			s.Neighbour.Run("ip", "addr", "replace", address, "dev", "lo")
		}
		for _, ipam := range []string{"drawbridge", "default"} {
			s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64",
				"--aux-address", "DefaultGatewayIPv4=172.30.1.200", "--aux-address", "DefaultGatewayIPv6=fd00:30:1::200", "p_web")
			s.Run("c1", "--network", "p_web")
			show()
			s.removeAll()
		}
		const project = `
services:
  c1: {image: lab, hostname: c1, container_name: c1, networks: [web]}
networks:
  web:
    driver: drawbridge
    enable_ipv6: true
    ipam:
      driver: drawbridge
      config:
        - {subnet: 172.30.1.0/24, aux_addresses: {DefaultGatewayIPv4: 172.30.1.200}}
        - {subnet: "fd00:30:1::/64", aux_addresses: {DefaultGatewayIPv6: "fd00:30:1::200"}}
`
		s.compose(project)
		s.Serves("c1")
		show()
		s.composeDown(project)
	})
}

// router makes Neighbour one more machine on a bridge, with these addresses there. It
// has no other way to containers.
func (s *site) router(bridge string, addresses ...string) {
	s.t.Helper()
	s.Cable("router0", s.Host, s.Neighbour)
	s.Host.Run("ip", "link", "set", "router0", "master", bridge, "up")
	s.Neighbour.Set("net/ipv6/conf/router0/accept_dad", "0")
	s.Neighbour.Run("ip", "link", "set", "router0", "up")
	for _, address := range addresses {
		s.Neighbour.Run("ip", "addr", "add", address, "dev", "router0")
	}
}

func TestEngineIsolatedNetworksHaveNobodyOnTheBridge(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("cell", "--internal", "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64",
			"-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "-o", "com.docker.network.bridge.gateway_mode_ipv6=isolated")
		s.Run("c1", "--network", "cell")
		s.Run("c2", "--network", "cell")
		s.MustReach("c1", "tcp", "c2:80", "c2")
		s.MustReach("c1", "tcp", "["+s.address6("c2", "cell")+"]:80", "c2")
		if out := s.Host.Run("ip", "-o", "addr", "show", "dev", s.bridge("cell")); out != "" {
			s.t.Errorf("the host has an address among isolated containers: %s", out)
		}
		if s.Version() == lab.Newest {
			if out := s.inspect("{{json .IPAM.Config}}", "cell"); strings.Contains(out, "Gateway") {
				s.t.Errorf("an address is spent on a gateway that nobody has: %s", out)
			}
		}
	})
}

// TestEngineTwoGatewaysOfOneContainerShareItsPorts has one network as the gateway for
// IPv4 and another for IPv6: the engine tells only the first that there are two.
func TestEngineTwoGatewaysOfOneContainerShareItsPorts(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.network("v4", "--subnet", "172.30.1.0/24")
		s.dual("both", "172.30.2.0/24", "fd00:30:2::/64")
		s.Run("c1", "--network", "name=v4,gw-priority=1", "--network", "both", "-p", "8080:80")
		s.leadsTo("0.0.0.0:8080", s.address("c1", "v4"))
		s.leadsTo("[::]:8080", s.address6("c1", "both"))

		s.Docker("network", "disconnect", "v4", "c1")
		s.leadsTo("0.0.0.0:8080", s.address("c1", "both"))
		s.leadsTo("[::]:8080", s.address6("c1", "both"))

		s.Docker("network", "connect", "--gw-priority", "1", "v4", "c1")
		s.leadsTo("0.0.0.0:8080", s.address("c1", "v4"))
		s.leadsTo("[::]:8080", s.address6("c1", "both"))

		s.Docker("network", "disconnect", "both", "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.Outside.MustNotReach("tcp", "[2001:db8:1::1]:8080", hello.Refuse)
	})
}

// leadsTo shows that the published port answers, and by which address of c1.
func (s *site) leadsTo(port, address string) {
	s.t.Helper()
	at := map[bool]string{true: "192.0.2.1:8080", false: "[2001:db8:1::1]:8080"}[strings.HasPrefix(port, "0")]
	s.Outside.MustReach("tcp", at, "c1")
	want := "dnat tcp " + port + " to " + netip.AddrPortFrom(netip.MustParseAddr(address), 80).String()
	if out, err := s.Drawbridge("plan"); err != nil || !strings.Contains(out, want) {
		s.t.Errorf("want %s: %v\n%s", want, err, out)
	}
}
