package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineUplinksForwardForContainersOnly is about a host that forwards nothing:
// its uplinks, one of which comes late, serve containers and do not become a router
// between themselves, nor for a LAN whose bridge a network adopts.
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
		s.lanStaysWhereItIs("203.0.113.2")

		s.removeAll()
		if err := s.uplinksForward("0", "eth0", "eth1"); err != nil {
			s.t.Errorf("after the last network went: %v", err)
		}
		s.Host.Run("sh", "-ec", "ip link del eth1; ip link del lan0; ip link del br-lan")
	})
}

// lanStaysWhereItIs has Neighbour behind the bridge of a network, and ask for something
// outside.
func (s *site) lanStaysWhereItIs(outside string) {
	s.t.Helper()
	s.Cable("lan0", s.Host, s.Neighbour)
	s.Host.Run("sh", "-ec", `
		ip link add br-lan type bridge forward_delay 0
		ip link set lan0 master br-lan up
		ip addr add 172.30.7.1/24 dev br-lan; ip link set br-lan up`)
	s.network("lan", "--subnet", "172.30.7.0/24", "--gateway", "172.30.7.1", "-o", bridgeKey+"name=br-lan")
	s.Run("c2", "--network", "lan")
	s.Neighbour.Run("sh", "-ec", `
		ip addr add 172.30.7.200/24 dev lan0; ip link set lan0 up
		ip route add `+outside+` via 172.30.7.1`)
	s.Neighbour.MustReach("tcp", join(s.address("c2", "lan"), "80"), "c2")
	s.MustReach("c2", "tcp", join(outside, "80"), "outside")
	s.Neighbour.MustNotReach("tcp", join(outside, "80"), hello.Drop)
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

// haltDocker leaves a host whose firewall is empty and that forwards nothing, as it is
// before an engine starts.
func haltDocker(s *site) {
	s.StopDocker()
	s.Host.Run("nft", "flush", "ruleset")
	s.Host.Set("net/ipv4/ip_forward", "0")
	s.Host.Set("net/ipv6/conf/all/forwarding", "0")
}

// bootDocker has the engine start on such a host.
func bootDocker(s *site) {
	haltDocker(s)
	s.StartDocker()
}

// useIPv6 has the engine turn forwarding of IPv6 on, and decide on the policy then.
func useIPv6(s *site) {
	s.dockersOwn("six")
	s.Docker("network", "rm", "six")
}

func TestEngineThatStartsAfterUsDecidesAsWithoutUs(t *testing.T) {
	boot := func(s *site) {
		bootDocker(s)
		useIPv6(s)
	}
	eachEngineAfter(t, boot, func(s *site) {
		without4, without6 := policies(s)
		leaves := func(when, want4, want6 string) {
			s.t.Helper()
			if got4, got6 := policies(s); got4 != want4 || got6 != want6 {
				s.t.Errorf("%s, policies of FORWARD are %s and %s, want %s and %s", when, got4, got6, want4, want6)
			}
		}
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		leaves("with us after the engine", without4, without6)
		restart := func() {
			haltDocker(s)
			s.settled()
			s.StartDocker()
			useIPv6(s)
		}
		restart()
		leaves("with the engine after us", without4, without6)
		s.Run("c1", "--network", "web", "-p", "8080:80")
		for _, f := range both {
			s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
			s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
		}
		s.Docker("rm", "-f", "c1")

		// Before Linux 6.17 forwarding of IPv6 has but one switch, which the engine finds on.
		s.StopDaemon()
		s.hideForceForwarding()
		s.StartDaemon()
		restart()
		leaves("with the engine after us and an older kernel", without4, "ACCEPT")
		if out, err := s.Drawbridge("status"); err != nil || !strings.Contains(out, "leaves the policy of ip6tables' FORWARD as it is") {
			s.t.Errorf("status does not say what becomes of the policy: %s%v", out, err)
		}
		s.Docker("network", "rm", "web")
		s.StopDaemon()
		s.showForceForwarding()
		s.StartDaemon()
		boot(s)
	})
}

// allIPv6 are the switches of IPv6 that are for the whole host.
const allIPv6 = "/proc/sys/net/ipv6/conf/all"

// hideForceForwarding has programs beside the engine find what an older kernel has.
func (s *site) hideForceForwarding() {
	s.t.Helper()
	s.must("sh", "-c", `set -e; mkdir /run/all; mount --bind "$0" /run/all; mount -t tmpfs older "$0"
for file in /run/all/*; do
	name=${file##*/}
	if [ $name != force_forwarding ]; then : >"$0/$name"; mount --bind $file "$0/$name"; fi
done`, allIPv6)
}

// showForceForwarding undoes that.
func (s *site) showForceForwarding() {
	s.t.Helper()
	s.must("sh", "-c", `umount -R "$0"; umount /run/all; rmdir /run/all`, allIPv6)
}

// must runs a command beside the engine.
func (s *site) must(name string, args ...string) {
	s.t.Helper()
	if out, err := s.Try(name, args...); err != nil {
		s.t.Fatalf("%s%v", out, err)
	}
}
