package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineASenderThatKeepsItsPortReachesTheNextContainer is about what the kernel
// remembers of connections: without its forgetting the first container, datagrams
// would go there for as long as they keep coming.
func TestEngineASenderThatKeepsItsPortReachesTheNextContainer(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		senders := map[string]*hello.Conn{}
		for _, host := range []string{"192.0.2.1", "2001:db8:1::1"} {
			senders[host] = s.Outside.Dial("udp", join(host, "8080"))
		}
		var before []string
		ends := map[string][]string{
			"c1": {"rm", "-f", "c1"}, "c2": {"network", "disconnect", "web", "c2"}, "c3": {"stop", "-t", "1", "c3"},
		}
		for _, name := range slices.Sorted(maps.Keys(ends)) {
			s.Run(name, "--network", "web", "-p", "8080:80/udp")
			for host, sender := range senders {
				answer, err := sender.Ask(hello.Patience)
				if err != nil || answer.Server != name {
					s.t.Errorf("a sender to %s: want an answer of %s, got %v, %v", host, name, answer, err)
				}
			}
			s.MustReach(name, "udp", join(lab.Internet, "80"), "outside")
			s.MustReach(name, "udp", join(lab.Internet6, "80"), "outside")
			own := []string{s.address(name, "web"), s.address6(name, "web")}
			for _, address := range own {
				if len(s.tracked(address)) == 0 {
					s.t.Errorf("the test is in vain: the kernel remembers nothing of %s", address)
				}
			}
			s.Docker(ends[name]...)
			before = append(before, own...)
			for _, address := range before {
				if left := s.tracked(address); len(left) > 0 {
					s.t.Errorf("after %s went, the kernel remembers of %s:\n%s", name, address, strings.Join(left, "\n"))
				}
			}
		}
	})
}

// tracked are the connections of an address that the host's kernel knows of.
func (s *site) tracked(address string) []string {
	s.t.Helper()
	family := "ipv4"
	if strings.Contains(address, ":") {
		family = "ipv6"
	}
	var found []string
	for line := range strings.Lines(s.Host.Run("conntrack", "-L", "-f", family)) {
		for _, field := range strings.Fields(line) {
			if field == "src="+address || field == "dst="+address {
				found = append(found, strings.TrimSpace(line))
				break
			}
		}
	}
	return found
}
