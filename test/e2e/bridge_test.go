package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// office gives the host a bridge of its own, to which Neighbour is connected as well.
// It is up, has a MAC and an MTU, addresses of its own, and the IPv4 gateway of a
// network that is to come.
func office(s *site) {
	_, _ = s.Neighbour.Try("ip", "link", "del", "lan0") // its other end may still go with the host of before a boot
	s.Cable("lan0", s.Host, s.Neighbour)
	s.Host.Run("sh", "-ec", `
		ip link add br-lan address 02:00:5e:00:53:10 mtu 1450 type bridge forward_delay 400
		ip link set br-lan alias 'the office'
		ip link set lan0 mtu 1450 address 02:00:5e:00:53:11 master br-lan
		ip addr add 10.7.0.1/24 dev br-lan; ip addr add fd00:7::1/64 dev br-lan nodad
		ip addr add 172.30.1.1/24 dev br-lan
		echo 1 >/proc/sys/net/ipv4/conf/br-lan/forwarding
		ip link set lan0 up; ip link set br-lan up`)
	s.Neighbour.Run("sh", "-ec", `
		echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
		for a in 10.7.0.2/24 172.30.1.200/24 fd00:7::2/64 fd00:30:1::200/64; do ip addr add $a dev lan0; done
		ip link set lan0 mtu 1450 up`)
	for _, host := range []string{"10.7.0.1", "fd00:7::1"} {
		s.Neighbour.MustPing(host)
	}
	// The kernel searches for duplicates of what it made itself, and makes routes last.
	lab.Until(s.t, "the bridge and its port are ready", func() error {
		_, err := s.Host.Try("sh", "-ec", `
			for dev in br-lan lan0; do
				routes=$(ip -6 route show table local dev $dev)
				ip -6 -o addr show dev $dev | (while read -r _ _ _ address _; do echo "$routes" | grep "^local ${address%/*} "; done)
				echo "$routes" | grep '^multicast '
			done`)
		return err
	})
}

// TestEngineAnExistingBridgeIsAdoptedAndLeftAsFound has the bridge for a network, also
// over the death of the daemon and a boot of the host. That all is as before at the end is what every
// scenario shows.
func TestEngineAnExistingBridgeIsAdoptedAndLeftAsFound(t *testing.T) {
	boot := func(s *site) {
		s.Reboot()
		office(s)
		s.StartDocker()
	}
	eachEngineAfter(t, boot, func(s *site) {
		s.Neighbour.Serve("tcp", ":8000")
		before := s.ofLAN()
		for range 2 {
			s.twoOn(bridgeKey + "name=br-lan")
			s.worksOnLAN()
			s.KillDaemon()
			s.StartDaemon()
			s.Docker("rm", "-f", "c2")
			s.Run("c2", "--network", "web")
			s.worksOnLAN()
			s.removeAll()
			if diff := before.Diff(s.ofLAN()); diff != "" {
				s.t.Errorf("after the network was removed the bridge is not as it was:\n%s", diff)
			}
		}

		s.twoOn(bridgeKey + "name=br-lan")
		s.Reboot()
		office(s)
		s.StartDaemon()
		s.StartDocker()
		s.Docker("start", "c1", "c2")
		s.serveAgain("c1", "c2")
		s.worksOnLAN()
		s.KillDaemon() // and whoever comes after takes back what it added
		s.StartDaemon()
	})
}

// worksOnLAN is about containers on the bridge of office.
func (s *site) worksOnLAN() {
	s.t.Helper()
	for lan, f := range map[string]family{"172.30.1.200": both["IPv4"], "fd00:30:1::200": both["IPv6"]} {
		c1 := join(f.address(s, "c1", "web"), "80")
		s.MustReach("c2", "tcp", c1, "c1")
		s.MustReach("c1", "tcp", join(lan, "8000"), "neighbour")
		s.Neighbour.MustReach("tcp", c1, "c1")
		s.Host.MustReach("tcp", c1, "c1")
		s.sees("from a container", s.MustReach("c1", "tcp", join(f.internet, "80"), "outside").Client, f.host(s))
		s.sees("from outside", s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1"), f.outside(s))
	}
	// What the office had before goes on.
	s.Neighbour.MustReach("tcp", "10.7.0.1:8080", "c1")
	s.Neighbour.MustPing("fd00:7::1")
	if out := s.link("c1", "eth0"); !strings.Contains(out, "mtu 1450") {
		s.t.Errorf("c1 sends more than the bridge takes: %s", out)
	}
}

// ofLAN is what the host has to do with the bridge.
func (s *site) ofLAN() lab.Snapshot {
	s.t.Helper()
	return s.Host.Snapshot().Without(func(section, line string) bool {
		return section == "nft" || !strings.Contains(line, "br-lan")
	})
}

// TestEngineABareBridgeIsAdoptedAndLeftAsFound has one that is down, and without MAC,
// port and address of its own.
func TestEngineABareBridgeIsAdoptedAndLeftAsFound(t *testing.T) {
	bare := func(s *site) {
		s.Host.Run("ip", "link", "add", "br-lan", "type", "bridge")
		for _, state := range []string{"up", "down"} { // once up, it has another qdisc
			s.Host.Run("ip", "link", "set", "br-lan", state)
		}
	}
	eachEngineAfter(t, bare, func(s *site) {
		before := s.ofLAN()
		s.twoOn(bridgeKey + "name=br-lan")
		s.publishedOn("c1", "c2")
		mac := func() string { return strings.Fields(s.Host.Run("ip", "-br", "link", "show", "br-lan"))[2] }
		found := mac()
		s.Docker("restart", "-t", "0", "c2")
		s.serveAgain("c2")
		s.Docker("rm", "-f", "c1")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.publishedOn("c1", "c2")
		if got := mac(); got != found {
			s.t.Errorf("as containers come and go the gateway's MAC has changed from %s to %s", found, got)
		}
		s.removeAll()
		if diff := before.Diff(s.ofLAN()); diff != "" {
			s.t.Errorf("after the network was removed the bridge is not as it was:\n%s", diff)
		}
	})
}

// publishedOn is about the port that one publishes, and what both reach.
func (s *site) publishedOn(published, peer string) {
	s.t.Helper()
	for _, f := range both {
		s.MustReach(peer, "tcp", join(f.address(s, published, "web"), "80"), published)
		s.MustReach(peer, "tcp", join(f.internet, "80"), "outside")
		s.Outside.MustReach("tcp", join(f.host(s), "8080"), published)
	}
}

func TestEngineABridgeOfAChosenNameIsMadeAndRemoved(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.twoOn(bridgeKey + "name=br-web")
		s.publishedOn("c1", "c2")
		if out := s.Host.Run("ip", "-d", "link", "show", "br-web"); !strings.Contains(out, "mtu 1500") || !strings.Contains(out, "bridge") {
			s.t.Errorf("the network's bridge: %s", out)
		}
		s.removeAll()
		if out, err := s.Host.Try("ip", "link", "show", "br-web"); err == nil {
			s.t.Errorf("the bridge is left: %s", out)
		}
	})
}

// TestEngineNamesThatAreNoBridgeOrAnothersAreRefused also shows that the refused network
// costs nothing: neither the link nor its owner is changed, and the subnet is free.
func TestEngineNamesThatAreNoBridgeOrAnothersAreRefused(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24", "-o", bridgeKey+"name=br-web")
		s.network("own", "--subnet", "172.30.2.0/24")
		before := s.Host.Snapshot()
		for name, reason := range map[string]string{
			"eth0":                 "it is an interface of this host and no bridge; choose another by com.docker.network.bridge.name",
			"lo":                   "want another name than all, default and lo",
			"docker0":              "it is an engine's own",
			"br-web":               "it is network " + s.inspect("{{.Id}}", "web")[:12],
			s.bridge("own"):        "Drawbridge gives such names itself",
			"a-name-of-17-chars":   "want an interface name of 1 to 15 letters",
			"br/web":               "want an interface name",
			"../../../etc/passwd1": "want an interface name",
		} {
			_, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--subnet", "172.30.9.0/24",
				"-o", bridgeKey+"name="+name, "x")
			if err == nil || !strings.Contains(err.Error(), reason) {
				s.t.Errorf("bridge %s: want an error that says %q, got %v", name, reason, err)
			}
		}
		if diff := before.Diff(s.Host.Snapshot()); diff != "" {
			s.t.Errorf("the refused networks have changed the host:\n%s", diff)
		}
		s.network("x", "--subnet", "172.30.9.0/24", "-o", bridgeKey+"name=br-x")
	})
}

// TestEngineAReusedAddressIsReachedAtOnce is about who has just spoken to the container
// that had an address before: the host, a container, a machine on the bridge. It had
// another MAC, as a person may choose. Engines up to 27 tell nobody of the new one, and
// later ones only if the address is from Docker's own IPAM.
func TestEngineAReusedAddressIsReachedAtOnce(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Cable("lan0", s.Host, s.Neighbour)
		s.Host.Run("ip", "link", "set", "lan0", "up", "master", s.bridge("web"))
		s.Neighbour.Run("sh", "-ec", `
			echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
			ip addr add 172.30.1.200/24 dev lan0; ip addr add fd00:30:1::200/64 dev lan0; ip link set lan0 up`)
		s.Run("peer", "--network", "web", "--ip", "172.30.1.100")
		neighbours := map[string]func(address string) string{
			"the host":                func(a string) string { return s.Host.Run("ip", "neigh", "show", a) },
			"a machine on the bridge": func(a string) string { return s.Neighbour.Run("ip", "neigh", "show", a) },
			"a container":             func(a string) string { return s.in("peer", "ip", "neigh", "show", a) },
		}
		for i, name := range []string{"first", "second", "third"} {
			mac := fmt.Sprintf("02:00:5e:00:53:5%d", i)
			s.Run(name, "--network", "web", "--ip", "172.30.1.50", "--ip6", "fd00:30:1::50", "--mac-address", mac, "-p", "8080:80")
			for _, f := range both {
				address := f.address(s, name, "web")
				s.Outside.MustReach("tcp", join(f.host(s), "8080"), name)
				s.Host.MustReach("tcp", join(address, "80"), name)
				s.Neighbour.MustReach("tcp", join(address, "80"), name)
				s.MustReach("peer", "tcp", join(address, "80"), name)
			}
			// Whoever is sure of it would ask nobody for half a minute.
			for who, entry := range neighbours {
				for _, f := range both {
					lab.Until(s.t, who+" is sure of "+mac, func() error {
						if got := entry(f.address(s, name, "web")); !strings.Contains(got, mac) || !strings.Contains(got, "REACHABLE") {
							return errors.New(got)
						}
						return nil
					})
				}
			}
			s.Docker("rm", "-f", name)
		}
		s.Host.Run("ip", "link", "del", "lan0")
	})
}
