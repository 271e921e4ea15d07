package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// subnets are those of a network, the IPv4 ones first.
func (s *site) subnets(network string) []netip.Prefix {
	s.t.Helper()
	var all []netip.Prefix
	for _, field := range strings.Fields(s.inspect("{{range .IPAM.Config}}{{.Subnet}} {{end}}", network)) {
		all = append(all, netip.MustParsePrefix(field))
	}
	return all
}

// subnetsOf are those that a container's addresses lie in. Where a person named only a
// size, engine 20.10 goes on saying what was named.
func (s *site) subnetsOf(container, network string) (ipv4, ipv6 netip.Prefix) {
	s.t.Helper()
	n := `(index .NetworkSettings.Networks "` + network + `")`
	four, six, _ := strings.Cut(s.inspect("{{with "+n+"}}{{.IPAddress}}/{{.IPPrefixLen}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}}{{end}}", container), " ")
	return netip.MustParsePrefix(four).Masked(), netip.MustParsePrefix(six).Masked()
}

// isFrom fails the test unless a subnet has this length and lies in one of the ranges.
func (s *site) isFrom(got netip.Prefix, bits int, ranges ...string) {
	s.t.Helper()
	for _, r := range ranges {
		if netip.MustParsePrefix(r).Contains(got.Addr()) && got.Bits() == bits {
			return
		}
	}
	s.t.Errorf("got the subnet %s, want a /%d out of %s", got, bits, strings.Join(ranges, ", "))
}

// ula is what IPv6 subnets are chosen from.
const ula = "fd00::/8"

func TestEngineOurAddressesUnderDockersNetworks(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.Docker("network", "create", "-d", "bridge", "--ipam-driver", "drawbridge", "--ipv6", "chosen")
		s.Docker("network", "create", "-d", "bridge", "--ipam-driver", "drawbridge", "--subnet", "172.31.0.0/16", "--ip-range", "172.31.5.0/24",
			"--gateway", "172.31.0.254", "--aux-address", "printer=172.31.5.0", "named")
		four, six := s.subnets("chosen")[0], s.subnets("chosen")[1]
		s.isFrom(four, 24, "172.30.0.0/16")
		s.isFrom(six, 64, ula)
		s.Run("c1", "--network", "chosen", "-p", "8080:80")
		s.Run("c2", "--network", "chosen")
		s.Run("c3", "--network", "named")
		s.MustReach("c2", "tcp", "c1:80", "c1")
		s.MustReach("c2", "tcp", join(s.address6("c1", "chosen"), "80"), "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		if got := s.address("c3", "named"); got != "172.31.5.1" {
			s.t.Errorf("c3 has %s, want the first of the range that is not the printer's", got)
		}
		// Docker's driver tells us nothing of its networks, and ours keeps away from them.
		s.network("ours")
		if got := s.subnets("ours")[0]; got.Overlaps(four) {
			s.t.Errorf("two networks have %s and %s", four, got)
		}
		if _, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--subnet", "172.31.8.0/24", "x"); err == nil || !strings.Contains(err.Error(), "pool 172.31.0.0/16") {
			s.t.Errorf("a subnet of another network: want an error that names its pool, got %v", err)
		}
		s.StopDaemon()
		s.StartDaemon()
		s.Docker("rm", "-f", "c2")
		s.Run("c4", "--network", "chosen")
		s.MustReach("c4", "tcp", "c1:80", "c1")
	})
}

// TestEngineOurAddressesOnTheHostsOwnLink has containers beside the host, on its subnet:
// a network of Docker's macvlan driver.
func TestEngineOurAddressesOnTheHostsOwnLink(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Neighbour.Serve("tcp", ":80")
		s.Docker("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "drawbridge", "--ipv6",
			"--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.128/26", "--gateway", "192.0.2.2", "--aux-address", "printer=192.0.2.128",
			"--subnet", "2001:db8:1::/64", "--ip-range", "2001:db8:1::80/122", "--gateway", "2001:db8:1::2", "lan")
		s.Run("c1", "--network", "lan")
		s.Run("c2", "--network", "lan", "--ip", "192.0.2.77")
		if four, six := s.address("c1", "lan"), s.address6("c1", "lan"); four != "192.0.2.129" || six != "2001:db8:1::80" {
			s.t.Errorf("c1 has %s and %s, want the first of each range that is not the printer's", four, six)
		}
		if got := s.address("c2", "lan"); got != "192.0.2.77" {
			s.t.Errorf("--ip 192.0.2.77 gave %s", got)
		}
		s.MustReach("c1", "tcp", "c2:80", "c2")
		s.MustReach("c1", "tcp", "192.0.2.3:80", "neighbour")
		s.sees("c2", s.MustReach("c2", "tcp", lab.Internet+":80", "outside").Client, "192.0.2.77")
		s.Outside.MustReach("tcp", "[2001:db8:1::80]:80", "c1")
	})
}

// TestEngineChosenSubnetsKeepAwayFromTheHosts has the engine like the first that it is
// given: one that it disliked would not show.
func TestEngineChosenSubnetsKeepAwayFromTheHosts(t *testing.T) {
	eachEngine(t, func(s *site) {
		const servers = "nameserver 172.30.2.53\n"
		if _, err := s.Try("mount", "--bind", s.File("resolv.conf", servers), "/etc/resolv.conf"); err != nil {
			s.t.Fatal(err)
		}
		s.Host.Run("ip", "addr", "add", "172.30.0.5/32", "dev", "lo")
		s.Host.Run("ip", "route", "add", "172.30.1.128/25", "dev", "eth0", "table", "77")
		via := []string{"via", s.Neighbour.Addr.String()}
		s.Host.Run("ip", append([]string{"route", "add", "172.30.3.0/28", "table", "78"}, via...)...)
		for i, want := range []string{"172.30.4.0/24", "172.30.3.0/24"} {
			name := fmt.Sprintf("n%d", i)
			s.network(name)
			if got := s.subnets(name)[0].String(); got != want {
				s.t.Errorf("network %d has %s, want %s", i, got, want)
			}
			if got := strings.Count(s.DaemonLog(), "method=IpamDriver.RequestPool"); got != i+1 {
				s.t.Errorf("network %d: the engine has asked %d times", i, got)
			}
			s.Run("c"+name, "--network", name, "-p", fmt.Sprintf("808%d:80", i))
			s.Outside.MustReach("tcp", fmt.Sprintf("192.0.2.1:808%d", i), "c"+name)
			// From now on all there is leads elsewhere, and what is nearer still counts.
			s.Host.Run("ip", append([]string{"route", "replace", "172.16.0.0/12"}, via...)...)
			s.Host.Run("ip", append([]string{"route", "replace", "10.0.0.0/8"}, via...)...)
		}
		for _, to := range []string{"172.16.0.0/12", "10.0.0.0/8", "172.30.3.0/28 table 78", "172.30.1.128/25 table 77"} {
			s.Host.Run("ip", append([]string{"route", "del"}, strings.Fields(to)...)...)
		}
		s.Host.Run("ip", "addr", "del", "172.30.0.5/32", "dev", "lo")
	})
}

func TestEngineSubnetsOfASizeAndOfConfiguredRanges(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("sized", "--ipv6", "--subnet", "0.0.0.0/26", "--subnet", "::/72")
		s.Run("c1", "--network", "sized", "-p", "8080:80")
		four, six := s.subnetsOf("c1", "sized")
		s.isFrom(four, 26, "172.30.0.0/16")
		s.isFrom(six, 72, ula)
		s.Run("c2", "--network", "sized")
		s.MustReach("c2", "tcp", join(s.address6("c1", "sized"), "80"), "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")

		// The host's own prefix is drawn once.
		s.network("drawn", "--ipv6")
		first := netip.PrefixFrom(s.subnets("drawn")[1].Addr(), 48).Masked()
		s.StopDaemon()
		s.StartDaemon()
		s.network("again", "--ipv6")
		s.isFrom(s.subnets("again")[1], 64, first.String())
		s.removeAll()

		s.StopDaemon()
		s.StartDaemon("--pool", "10.64.0.0/25=26", "--pool", "fd00:64::/62=64", "--pool", "10.65.0.0/24=24")
		for i, want := range []string{"10.64.0.0/26", "10.64.0.64/26", "10.65.0.0/24"} {
			name := fmt.Sprintf("n%d", i)
			s.network(name, "--ipv6")
			if got := s.subnets(name); got[0].String() != want || got[1].String() != fmt.Sprintf("fd00:64:0:%x::/64", i) && got[1].String() != "fd00:64::/64" {
				s.t.Errorf("network %d has %s, want %s and a /64 of fd00:64::/62", i, got, want)
			}
		}
		_, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "spent")
		if want := "every /26 of 10.64.0.0/25, /24 of 10.65.0.0/24 overlaps pools in use: 3"; err == nil || !strings.Contains(err.Error(), want) {
			s.t.Errorf("when the ranges are spent: want %q, got %v", want, err)
		}
		s.Run("c1", "--network", "n1", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

// TestEngineComposeSaysWhatDockersIPAMCan names a subnet outside the ranges that others
// are chosen from: compose creates networks in any order and side by side.
func TestEngineComposeSaysWhatDockersIPAMCan(t *testing.T) {
	const project = `
version: "2.4"
services:
  one: {image: lab, hostname: one, container_name: one, networks: {web: {ipv4_address: 172.31.7.7}}}
  two: {image: lab, hostname: two, container_name: two, networks: [web, sized]}
  three: {image: lab, hostname: three, container_name: three, networks: [sized, docker]}
networks:
  web:
    driver: drawbridge
    ipam:
      driver: drawbridge
      config:
        - subnet: 172.31.0.0/16
          ip_range: 172.31.5.0/24
          gateway: 172.31.0.254
          aux_addresses: {printer: 172.31.5.0, nas: 172.31.5.1}
  sized: {driver: drawbridge, enable_ipv6: true, ipam: {driver: drawbridge, config: [{subnet: 0.0.0.0/27}, {subnet: "::/64"}]}}
  docker: {driver: bridge, ipam: {driver: drawbridge}}
`
	eachClients(t, func(s *site) {
		if _, err := s.Compose("p", project, "up", "-d"); err != nil {
			s.t.Fatal(err)
		}
		for _, name := range []string{"one", "two", "three"} {
			s.Serves(name)
		}
		if got := s.address("one", "p_web"); got != "172.31.7.7" {
			s.t.Errorf("ipv4_address: 172.31.7.7 gave %s", got)
		}
		if got := s.address("two", "p_web"); got != "172.31.5.2" {
			s.t.Errorf("two has %s, want the first of ip_range that is no auxiliary address", got)
		}
		if got := s.gateway("two", "p_web"); got != "172.31.0.254" {
			s.t.Errorf("gateway: 172.31.0.254 gave %s", got)
		}
		four, six := s.subnetsOf("two", "p_sized")
		s.isFrom(four, 27, "172.30.0.0/16")
		s.isFrom(six, 64, ula)
		s.MustReach("two", "tcp", "172.31.7.7:80", "one")
		s.MustReach("two", "tcp", join(s.address6("three", "p_sized"), "80"), "three")
		if _, err := s.Compose("p", project, "down"); err != nil {
			s.t.Fatal(err)
		}
	})
}

// TestEngineAsksForASubnetUntilItIsTold: an engine takes no subnet in what it believes
// to be on a link, and would ask for another for ever.
func TestEngineAsksForASubnetUntilItIsTold(t *testing.T) {
	eachEngine(t, func(s *site) {
		route := func(verb, kind, to string, more ...string) {
			s.Host.Run("ip", append(append([]string{"route", verb}, strings.Fields(kind+" "+to)...), more...)...)
		}
		via := []string{"via", s.Neighbour.Addr.String()}
		route("add", "", "10.0.0.0/8", via...)
		s.network("first")
		s.isFrom(s.subnets("first")[0], 24, "172.30.0.0/16")
		route("add", "", "172.16.0.0/12", via...)
		s.network("second") // in what is routed to elsewhere, since nothing else is free
		s.isFrom(s.subnets("second")[0], 24, "172.30.0.0/16")
		s.Run("c1", "--network", "second", "-p", "8080:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")

		route("del", "", "172.16.0.0/12", via...)
		route("add", "unreachable", "172.16.0.0/12", "scope", "link")
		_, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "third")
		if err == nil || !strings.Contains(err.Error(), "64 pools") || !strings.Contains(err.Error(), "route 172.16.0.0/12") {
			s.t.Errorf("want an error that names the route, got %v", err)
		}
		route("del", "unreachable", "172.16.0.0/12", "scope", "link")
		s.network("third")
		s.isFrom(s.subnets("third")[0], 24, "172.30.0.0/16")
		route("del", "", "10.0.0.0/8", via...)
	})
}

func TestEngineFreedAddressRestsOverARestart(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/29")
		for i, want := range []string{"172.30.1.2", "172.30.1.3", "172.30.1.4", "172.30.1.5", "172.30.1.6", "172.30.1.2", "172.30.1.3"} {
			name := fmt.Sprintf("c%d", i)
			s.Run(name, "--network", "web")
			if got := s.address(name, "web"); got != want {
				s.t.Errorf("container %d has %s, want %s", i, got, want)
			}
			s.Docker("rm", "-f", name)
			if i%2 == 0 {
				s.KillDaemon()
				s.StartDaemon()
			}
		}
	})
}

// TestEngineReservationsOutliveABoot: on engines up to 28 an auxiliary address and a
// container's --ip are asked for by the same bytes.
func TestEngineReservationsOutliveABoot(t *testing.T) {
	boot := func(s *site) {
		s.Reboot()
		s.StartDocker()
		warmUp(s)
	}
	eachEngineAfter(t, boot, func(s *site) {
		for name, driver := range map[string]string{"ours": "drawbridge", "docker": "bridge"} {
			subnet := map[string]string{"ours": "172.30.1", "docker": "172.31.1"}[name]
			s.Docker("network", "create", "-d", driver, "--ipam-driver", "drawbridge", "--subnet", subnet+".0/29", "--aux-address", "printer="+subnet+".2", name)
			s.Run("named-"+name, "--network", name, "--ip", subnet+".3", "--restart", "always")
			s.Run("gone-"+name, "--network", name)
		}
		s.Reboot()
		s.StartDaemon()
		s.StartDocker()
		s.serveAgain("named-ours", "named-docker")
		for name, subnet := range map[string]string{"ours": "172.30.1", "docker": "172.31.1"} {
			if got := s.address("named-"+name, name); got != subnet+".3" {
				s.t.Errorf("after a boot --ip %s.3 gave %s", subnet, got)
			}
			// The gateway, the printer's and the named one are held, and no other.
			for i, want := range []string{".4", ".5", ".6"} {
				c := fmt.Sprintf("%s%d", name, i)
				s.Run(c, "--network", name)
				if got := s.address(c, name); got != subnet+want {
					s.t.Errorf("container %s has %s, want %s%s", c, got, subnet, want)
				}
			}
			if _, err := s.TryDocker("run", "--rm", "--network", name, lab.Image, "true"); err == nil || !strings.Contains(err.Error(), "nothing free") {
				s.t.Errorf("network %s is full: %v", name, err)
			}
		}
		if out, err := s.TryDocker("run", "--rm", "--network", "ours", "--ip", "172.30.1.2", lab.Image, "true"); err == nil || !strings.Contains(err.Error(), "auxiliary") {
			s.t.Errorf("a container has the printer's address: %v%s", err, out)
		}
	})
}

func TestEngineTwoHundredNetworks(t *testing.T) {
	eachEngine(t, func(s *site) {
		const count = 200
		atOnce := 8
		if s.Version() == lab.Oldest {
			// Several at once, and it puts its own jump to DOCKER-USER into FORWARD
			// twice.
			atOnce = 1
		}
		var names []string
		for i := range count {
			names = append(names, fmt.Sprintf("n%d", i))
		}
		next := make(chan string)
		errs := make([]error, atOnce)
		var all sync.WaitGroup
		for worker := range errs {
			all.Go(func() {
				for name := range next {
					_, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", name)
					errs[worker] = errors.Join(errs[worker], err)
				}
			})
		}
		for _, name := range names {
			next <- name
		}
		close(next)
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			s.t.Fatal(err)
		}
		distinct := map[netip.Prefix]bool{}
		for _, subnet := range strings.Fields(s.Docker(append([]string{"network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}}"}, names...)...)) {
			p := netip.MustParsePrefix(subnet)
			s.isFrom(p, 24, "172.30.0.0/16")
			distinct[p] = true
		}
		if len(distinct) != count {
			s.t.Errorf("%d networks have %d subnets", count, len(distinct))
		}
		last := names[count-1]
		s.Run("c1", "--network", last, "-p", "8080:80")
		s.Run("c2", "--network", last)
		s.MustReach("c2", "tcp", "c1:80", "c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

// TestEngineEveryAddressOfANarrowSubnetCanBeUsed is about networks without a gateway,
// for which engines up to 27 ask all the same.
func TestEngineEveryAddressOfANarrowSubnetCanBeUsed(t *testing.T) {
	eachEngine(t, func(s *site) {
		for _, without := range [][]string{
			{"--ipv6", "--subnet", "fd00:30:1::/127", "-o", bridgeKey + "gateway_mode_ipv4=isolated", "-o", bridgeKey + "gateway_mode_ipv6=isolated"},
			{"-o", bridgeKey + "inhibit_ipv4=true"},
		} {
			s.network("pair", append(without, "--internal", "--subnet", "172.30.1.0/31")...)
			s.Run("c1", "--network", "pair")
			if s.Version() != lab.Oldest {
				s.Run("c2", "--network", "pair")
				s.MustReach("c1", "tcp", join(s.address("c2", "pair"), "80"), "c2")
				if without[0] == "--ipv6" {
					s.MustReach("c1", "tcp", join(s.address6("c2", "pair"), "80"), "c2")
				}
			}
			if _, err := s.TryDocker("run", "--rm", "--network", "pair", lab.Image, "true"); err == nil || !strings.Contains(err.Error(), "nothing free") {
				s.t.Errorf("one container more: want an error that says that nothing is free, got %v", err)
			}
			s.removeAll()
		}
	})
}

func TestEngineLinkLocalSubnets(t *testing.T) {
	eachEngine(t, func(s *site) {
		for network, subnet := range map[string]string{"first": "fe80::/64", "other": "fe80:1234::/64"} {
			s.network(network, "--ipv6", "--subnet", subnet)
			a, b := network+"1", network+"2"
			s.Run(a, "--network", network)
			s.Run(b, "--network", network)
			got := s.address6(b, network)
			if !netip.MustParsePrefix(subnet).Contains(netip.MustParseAddr(got)) {
				s.t.Errorf("%s has %s, want an address in %s", b, got, subnet)
			}
			s.MustReach(a, "tcp", "["+got+"%eth0]:80", b)
			s.MustReach(a, "tcp", b+":80", b)
		}
	})
}
