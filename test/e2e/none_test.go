package e2e

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineThereMayBeNoFirewall gives it up under running containers, whose published
// ports the proxy then serves alone, and has it back.
func TestEngineThereMayBeNoFirewall(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.webAndOther()
		s.guardedBy(nft, "auto: ")
		senders := []*sender{s.sendTo("192.0.2.1"), s.sendTo("2001:db8:1::1")}
		s.reached(senders, "c1")
		s.serveWith("--firewall=none")
		s.guardedByNone()
		s.reached(senders, "c1")
		s.network("shut", "--internal", "--subnet", "172.30.3.0/24")
		s.Run("c3", "--network", "web", "-p", "8083:80")
		if out, err := s.TryDocker("run", "-d", "--network", "web", "-p", "3868:3868/sctp", lab.Image, "peer"); err == nil || !strings.Contains(out+err.Error(), "does not speak SCTP") {
			s.t.Errorf("a port of SCTP: %s%v", out, err)
		}
		s.served("c1", "8080")
		s.served("c3", "8083")
		s.notesOf("no firewall of ours", "it is internal only by", "between containers of one network too")
		// The engine's FORWARD drops what is not its own.
		found := s.bridgedFrames()
		s.showBridgedFrames("0")
		for name, f := range both {
			got := s.MustReach("c2", "tcp", join(f.address(s, "c1", "web"), "80"), "c1")
			s.sees(name+" from a peer", got.Client, f.address(s, "c2", "web"))
		}
		s.showBridgedFrames(found)
		s.serveWith()
		s.guardedBy(nft, "auto: ")
		s.reached(senders, "c1")
		s.publishedPortAnswers()
		s.Outside.MustReach("tcp", "192.0.2.1:8083", "c3")
	})
}

// guardedByNone fails the test if there is any rule of ours, or what only rules could
// guard.
func (s *site) guardedByNone() {
	s.t.Helper()
	s.settled()
	s.notesOf("firewall: none (as told)")
	if all := s.firewalls(); len(all) > 0 {
		s.t.Errorf("there are rules of %q", all)
	}
	for _, tool := range []string{"iptables-nft", "ip6tables-nft"} {
		if rules := s.Host.Run(tool, "-S"); strings.Contains(rules, "drawbridge") {
			s.t.Errorf("%s has rules of ours:\n%s", tool, rules)
		}
	}
	if got := s.Host.Sysctl("net/ipv4/conf/" + s.bridge("web") + "/route_localnet"); got != "0" {
		s.t.Errorf("route_localnet is %s", got)
	}
}

// notesOf fails the test unless status says all of this.
func (s *site) notesOf(texts ...string) {
	s.t.Helper()
	out, err := s.Drawbridge("status")
	for _, text := range texts {
		if err != nil || !strings.Contains(out, text) {
			s.t.Errorf("status does not say %q: %v\n%s", text, err, out)
		}
	}
}

// served asks a container on network web for a port of the host from everywhere. It sees
// its gateway.
func (s *site) served(container, port string) {
	s.t.Helper()
	for name, f := range both {
		loopback := map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1"}[name]
		networks := []string{"tcp", "udp"}
		if container != "c1" {
			networks = networks[:1] // what it publishes
		}
		for _, network := range networks {
			s.sees(name+" from outside", s.Outside.MustReach(network, join(f.host(s), port), container), f.gateway)
			s.sees(name+" from the host's own address", s.Host.MustReach(network, join(f.host(s), port), container), f.gateway)
			s.sees(name+" from the loopback", s.Host.MustReach(network, join(loopback, port), container), f.gateway)
			s.sees(name+" from another network", s.MustReach("d1", network, join(f.host(s), port), container).Client, f.gateway)
			s.sees(name+" from a peer", s.MustReach("c2", network, join(f.host(s), port), container).Client, f.gateway)
		}
	}
}
