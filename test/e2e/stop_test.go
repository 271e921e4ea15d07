package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestEngineStoppedContainersAreConnectedWhenTheyStart(t *testing.T) {
	eachClients(t, func(s *site) {
		s.webAndBack()
		s.Run("d1", "--network", "back")
		s.Docker("create", "--name", "c1", "--hostname", "c1", "--network", "web", "-p", "8080:80", lab.Image)
		s.Docker("network", "connect", "--ip", "172.30.2.77", "--ip6", "fd00:30:2::77", "back", "c1")
		s.Docker("start", "c1")
		s.serveAgain("c1")
		show := func() {
			s.t.Helper()
			s.serves8080()
			s.MustReach("d1", "tcp", "172.30.2.77:80", "c1")
			s.MustReach("d1", "tcp", "[fd00:30:2::77]:80", "c1")
		}
		show()
		s.Docker("restart", "-t", "1", "c1")
		s.serveAgain("c1")
		show()
		s.Docker("stop", "-t", "1", "c1")
		for _, f := range both {
			s.Outside.MustNotReach("tcp", join(f.host(s), "8080"), hello.Refuse)
		}
		s.Docker("network", "disconnect", "web", "c1")
		s.Docker("start", "c1")
		s.serveAgain("c1")
		show()
		s.goesBy("c1", "172.30.2.1", "fd00:30:2::1")
	})
}

// TestEngineNoTwoContainersHaveOneMAC stops a container, lets others have its address
// and starts it again.
func TestEngineNoTwoContainersHaveOneMAC(t *testing.T) {
	eachEngine(t, func(s *site) {
		for _, ipam := range []string{"drawbridge", "default"} {
			s.Docker("network", "create", "-d", "drawbridge", "--ipam-driver", ipam, "--subnet", "172.30.1.0/29", "web")
			s.Run("a1", "--network", "web", "-p", "8080:80")
			s.Run("a2", "--network", "web")
			s.Docker("stop", "-t", "1", "a1", "a2")
			// As many as there are addresses, so that all of the stopped ones' are taken.
			running := []string{"b1", "b2", "b3", "b4", "b5"}
			for _, b := range running {
				s.Run(b, "--network", "web")
			}
			s.Docker("rm", "-f", "b4", "b5")
			s.Docker("start", "a1", "a2")
			s.serveAgain("a1", "a2")
			s.ownMACs("web", "a1", "a2", "b1", "b2", "b3")
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "a1")
			s.Docker("restart", "-t", "1", "b1", "a1")
			s.serveAgain("b1", "a1")
			s.ownMACs("web", "a1", "a2", "b1", "b2", "b3")
			s.removeAll()
		}
	})
}

// ownMACs fails the test unless the containers reach each other, each at a MAC of its
// own, which the network's bridge knows behind one port of its own.
func (s *site) ownMACs(network string, containers ...string) {
	s.t.Helper()
	macs := map[string]string{}
	for i, c := range containers {
		next := containers[(i+1)%len(containers)]
		s.MustReach(c, "tcp", s.address(next, network)+":80", next)
		mac := strings.TrimSpace(s.in(c, "cat", "/sys/class/net/eth0/address"))
		if other, ok := macs[mac]; ok {
			s.t.Errorf("%s and %s have one MAC, %s", other, c, mac)
		}
		macs[mac] = c
		if got := s.inspect(`{{(index .NetworkSettings.Networks "`+network+`").MacAddress}}`, c); got != mac {
			s.t.Errorf("docker inspect says that the MAC of %s is %s, it is %s", c, got, mac)
		}
	}
	ports := s.learned("dbr" + s.inspect("{{.Id}}", network)[:12])
	for _, mac := range slices.Sorted(maps.Keys(macs)) {
		if len(ports[mac]) != 1 {
			s.t.Errorf("the bridge knows the MAC %s of %s behind the ports %v", mac, macs[mac], ports[mac])
		}
	}
}

// learned are the ports of a bridge behind which it knows each MAC.
func (s *site) learned(bridge string) map[string][]string {
	s.t.Helper()
	ports := map[string][]string{}
	for line := range strings.Lines(s.Host.Run("bridge", "fdb", "show", "br", bridge)) {
		words := strings.Fields(line)
		if len(words) < 3 || words[1] != "dev" || slices.Contains(words, "permanent") {
			continue
		}
		ports[words[0]] = append(ports[words[0]], words[2])
	}
	return ports
}
