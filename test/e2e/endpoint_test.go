package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// A way is how people attach a container to a network with driver options of their
// own: it starts c1 on network web, to which some come by network home.
type way struct {
	name   string
	lowers bool // the client lowers the key and the value
	attach func(s *site, key, value string) error
}

// ways lists those that the chosen clients have. Compose knows such options since 2. The
// quotes are for lists: the command takes what is behind a comma for another option.
func (s *site) ways() []way {
	list := []way{
		{"docker run", true, func(s *site, key, value string) error {
			return s.try("run", "-d", "--name", "c1", "--hostname", "c1", "--network", `name=web,"driver-opt=`+key+"="+value+`"`, lab.Image)
		}},
		{"docker create", true, func(s *site, key, value string) error {
			s.Docker("create", "--name", "c1", "--hostname", "c1", "--network", `name=web,"driver-opt=`+key+"="+value+`"`, lab.Image)
			return s.try("start", "c1")
		}},
		{"docker network connect", false, func(s *site, key, value string) error {
			s.Run("c1", "--network", "home")
			return s.try("network", "connect", "--driver-opt", `"`+key+"="+value+`"`, "web", "c1")
		}},
	}
	if s.newestClients() {
		list = append(list, way{"docker compose", false, func(s *site, key, value string) error {
			_, err := s.Compose("p", fmt.Sprintf(`
services:
  c1: {image: lab, hostname: c1, container_name: c1, networks: {web: {driver_opts: {%q: %q}}}}
networks:
  web: {external: true}
`, key, value), "up", "-d")
			return err
		}})
	}
	return list
}

// try runs the docker command for what it complains of.
func (s *site) try(args ...string) error {
	_, err := s.TryDocker(args...)
	return err
}

// newestClients reports whether the newest clients are in use.
func (s *site) newestClients() bool {
	return !strings.HasPrefix(s.Docker("version", "--format", "{{.Client.Version}}"), "20.10")
}

// in runs a command in a container and returns what it printed.
func (s *site) in(container string, command ...string) string {
	s.t.Helper()
	out, err := s.Exec(container, "/bin/"+command[0], command[1:]...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// has fails the test unless a container's kernel says all this of an interface.
func (s *site) has(container, link string, want ...string) {
	s.t.Helper()
	out := s.in(container, "ip", "addr", "show", "dev", link)
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.t.Errorf("%s of %s lacks %q:\n%s", link, container, w, out)
		}
	}
}

func TestEngineEndpointsHaveTheAddressesAskedFor(t *testing.T) {
	eachClients(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("c2", "--network", "web")
		s.Run("c1", "--network", "web", "--ip", "172.30.1.77", "--ip6", "fd00:30:1::77", "--mac-address", "02:00:5e:00:53:01")
		s.isAt("c1", "172.30.1.77", "fd00:30:1::77", "02:00:5e:00:53:01")
		s.Docker("restart", "-t", "1", "c1")
		s.serveAgain("c1")
		s.isAt("c1", "172.30.1.77", "fd00:30:1::77", "02:00:5e:00:53:01")

		const project = `
services:
  c3:
    image: lab
    hostname: c3
    container_name: c3
    mac_address: "02:00:5e:00:53:03"
    networks: {web: {ipv4_address: 172.30.1.78, ipv6_address: "fd00:30:1::78"}}
networks:
  web: {external: true}
`
		s.compose(project)
		s.Serves("c3")
		mac := "02:00:5e:00:53:03"
		if s.Version() == lab.Newest && !s.newestClients() {
			// The old compose disconnects and connects what it has created, and the
			// engine since 25 takes a MAC to be one of the first connection's.
			mac = ""
		}
		s.isAt("c3", "172.30.1.78", "fd00:30:1::78", mac)
		s.composeDown(project)
	})
}

// isAt fails the test unless c2 reaches a container at both addresses and at this MAC.
func (s *site) isAt(container, address4, address6, mac string) {
	s.t.Helper()
	s.has(container, "eth0", address4+"/24", address6+"/64", mac)
	for _, address := range []string{address4, address6} {
		s.MustReach("c2", "tcp", join(address, "80"), container)
		if out := s.in("c2", "ip", "neigh", "show", address); !strings.Contains(out, mac) {
			s.t.Errorf("c2 has another MAC than %s for %s: %s", mac, address, out)
		}
	}
	s.MustReach(container, "tcp", lab.Internet+":80", "outside")
	s.MustReach(container, "tcp", join(lab.Internet6, "80"), "outside")
}

func TestEngineEachNetworkHasTheMACAskedFor(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.network("web", "--subnet", "172.30.1.0/24")
		s.network("back", "--subnet", "172.30.2.0/24")
		s.Run("d1", "--network", "web")
		s.Docker("network", "connect", "back", "d1")
		show := func(server string, macs map[string]string) {
			s.t.Helper()
			for address, mac := range macs {
				s.MustReach("d1", "tcp", address+":80", server)
				if out := s.in("d1", "ip", "neigh", "show", address); !strings.Contains(out, mac) {
					s.t.Errorf("%s of %s is not at %s: %s", address, server, mac, out)
				}
			}
		}
		s.Run("c1", "--network", "name=web,ip=172.30.1.77,mac-address=02:00:5e:00:53:01",
			"--network", "name=back,ip=172.30.2.77,mac-address=02:00:5e:00:53:02")
		show("c1", map[string]string{"172.30.1.77": "02:00:5e:00:53:01", "172.30.2.77": "02:00:5e:00:53:02"})
		const project = `
services:
  c2:
    image: lab
    hostname: c2
    container_name: c2
    networks:
      web: {ipv4_address: 172.30.1.78, mac_address: "02:00:5e:00:53:03"}
      back: {ipv4_address: 172.30.2.78, mac_address: "02:00:5e:00:53:04"}
networks:
  web: {external: true}
  back: {external: true}
`
		s.compose(project)
		s.Serves("c2")
		show("c2", map[string]string{"172.30.1.78": "02:00:5e:00:53:03", "172.30.2.78": "02:00:5e:00:53:04"})
		s.composeDown(project)
	})
}

func TestEngineLinkLocalAddressesTalk(t *testing.T) {
	eachClients(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "--link-local-ip", "169.254.7.1", "--link-local-ip", "fe80::7:1")
		s.Run("c2", "--network", "web", "--link-local-ip", "169.254.7.2", "--link-local-ip", "fe80::7:2")
		const project = `
services:
  c3:
    image: lab
    hostname: c3
    container_name: c3
    networks: {web: {link_local_ips: ["169.254.7.3", "fe80::7:3"]}}
networks:
  web: {external: true}
`
		s.compose(project)
		s.Serves("c3")
		s.Docker("run", "-d", "--name", "c4", "--hostname", "c4", "--network", "none", lab.Image)
		s.Docker("network", "disconnect", "none", "c4")
		s.Docker("network", "connect", "--link-local-ip", "169.254.7.4", "--link-local-ip", "fe80::7:4",
			"--ip", "172.30.1.77", "--ip6", "fd00:30:1::77", "web", "c4")
		s.has("c4", "eth0", "172.30.1.77/24", "fd00:30:1::77/64")
		servers := map[string]string{"c1": "1", "c3": "3", "c4": "4"}
		if s.newestClients() {
			s.Run("c5", "--network", "name=web,link-local-ip=169.254.7.5,link-local-ip=fe80::7:5")
			servers["c5"] = "5"
		}
		for server, number := range servers {
			s.sees("over 169.254.0.0/16", s.MustReach("c2", "tcp", "169.254.7."+number+":80", server).Client, "169.254.7.2")
			s.MustReach("c2", "udp", "169.254.7."+number+":80", server)
			s.MustReach("c2", "tcp", "[fe80::7:"+number+"%eth0]:80", server)
			s.MustReach(server, "tcp", "[fe80::7:2%eth0]:80", "c2")
		}
		s.composeDown(project)
	})
}

// TestEngineOptionsOfAnEndpointAreHeardInEveryWay is shown by what a person is told.
func TestEngineOptionsOfAnEndpointAreHeardInEveryWay(t *testing.T) {
	eachClients(t, func(s *site) {
		s.network("home", "--subnet", "172.30.2.0/24")
		s.network("web", "--subnet", "172.30.1.0/24")
		for _, way := range s.ways() {
			for key, want := range map[string]string{
				"Drawbridge.Mut":                     "no such option",
				"Com.Docker.Network.Endpoint.IfName": "com.docker.network.endpoint.ifname",
			} {
				if err := way.attach(s, key, "a/b"); err == nil || !strings.Contains(err.Error(), want) {
					s.t.Errorf("%s %s=a/b: want an error that says %q, got %v", way.name, key, want, err)
				}
				s.Docker("rm", "-f", "c1")
			}
			if err := way.attach(s, "org.example.Other", "Tool"); err != nil {
				s.t.Errorf("%s with another tool's option: %v", way.name, err)
			}
			s.Serves("c1")
			s.Docker("rm", "-f", "c1")
		}
	})
}

func TestEngineInterfacesHaveTheNamesAskedFor(t *testing.T) {
	eachClients(t, func(s *site) {
		s.network("home", "--subnet", "172.30.2.0/24")
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c2", "--network", "web")
		for _, way := range s.ways() {
			name := "Wan7"
			if way.lowers {
				name = "wan7"
			}
			if err := way.attach(s, "com.docker.network.endpoint.ifname", "Wan7"); err != nil {
				s.t.Fatalf("%s: %v", way.name, err)
			}
			s.Serves("c1")
			s.has("c1", name, s.address("c1", "web")+"/24")
			s.MustReach("c2", "tcp", s.address("c1", "web")+":80", "c1")
			s.MustReach("c1", "tcp", lab.Internet+":80", "outside")
			s.Docker("restart", "-t", "1", "c1")
			s.serveAgain("c1")
			s.has("c1", name, s.address("c1", "web")+"/24")
			s.Docker("rm", "-f", "c1")
		}
		if !s.newestClients() {
			return
		}
		const project = `
services:
  c1: {image: lab, hostname: c1, container_name: c1, networks: {web: {interface_name: Lan0}}}
networks:
  web: {external: true}
`
		s.compose(project)
		s.has("c1", "Lan0", s.address("c1", "web")+"/24")
		s.composeDown(project)
	})
}

// TestEngineInterfaceNamesThatTheEngineIgnoresDoNoHarm is about engines that ask a
// remote driver for a prefix only.
func TestEngineInterfaceNamesThatTheEngineIgnoresDoNoHarm(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "name=web,driver-opt=com.docker.network.endpoint.ifname=wan7", "-p", "8080:80")
		name := map[string]string{lab.Oldest: "eth0", lab.Newest: "wan7"}[s.Version()]
		s.has("c1", name, s.address("c1", "web")+"/24")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

// TestEngineSysctlsOfAnEndpointHold has one network of two answer no ARP.
func TestEngineSysctlsOfAnEndpointHold(t *testing.T) {
	eachClients(t, func(s *site) {
		s.network("home", "--subnet", "172.30.2.0/24")
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c2", "--network", "web")
		for _, way := range s.ways() {
			if err := way.attach(s, "com.docker.network.endpoint.sysctls", "net.ipv4.conf.IFNAME.tag=7,net.ipv4.conf.IFNAME.arp_ignore=8"); err != nil {
				s.t.Fatalf("%s: %v", way.name, err)
			}
			s.Serves("c1")
			device := strings.Fields(s.in("c1", "ip", "-o", "-4", "addr", "show", "to", "172.30.1.0/24"))[1]
			if got := strings.TrimSpace(s.in("c1", "cat", "/proc/sys/net/ipv4/conf/"+device+"/tag")); got != "7" {
				s.t.Errorf("%s: the first of two sysctls is %s", way.name, got)
			}
			s.MustNotReach("c2", "tcp", s.address("c1", "web")+":80", hello.Drop)
			s.Docker("rm", "-f", "c1")
		}
	})
}

// TestEngineAContainerWithoutIPv6GivesItsAddressBack turns IPv6 off by a sysctl of the
// endpoint. The engine then gives the address back while the container lives, and says
// nothing of it to the network's driver.
func TestEngineAContainerWithoutIPv6GivesItsAddressBack(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		off := ",driver-opt=com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.disable_ipv6=1"
		s.Run("c1", "--network", "name=web,ip6=fd00:30:1::7"+off, "-p", "0.0.0.0:8080:80")
		s.Outside.MustReach("tcp", join(s.Host.Addr.String(), "8080"), "c1")
		s.Run("c2", "--network", "name=web,ip6=fd00:30:1::7", "-p", "[::]:8080:80")
		s.Outside.MustReach("tcp", join(s.Host.Addr6.String(), "8080"), "c2")
		s.Outside.MustReach("tcp", join(s.Host.Addr.String(), "8080"), "c1")
	})
}
