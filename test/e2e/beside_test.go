package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineDockersNetworksStayAsClosed asks everything of Docker's own containers, with
// us and without: networks of ours open nothing there, whatever FORWARD's policy is.
func TestEngineDockersNetworksStayAsClosed(t *testing.T) {
	eachSite(t, []string{"--userland-proxy=false"}, func(s *site) { dockersNetworksStayAsClosed(s) })
}

// TestEngineDockersNetworksStayAsClosedWithIptables is the same with our second firewall.
func TestEngineDockersNetworksStayAsClosedWithIptables(t *testing.T) {
	eachSite(t, []string{"--userland-proxy=false"}, func(s *site) { dockersNetworksStayAsClosed(s, "--firewall=iptables") })
}

// TestEngineDockersNFTNetworksStayAsClosed is about an engine that writes nftables' rules.
func TestEngineDockersNFTNetworksStayAsClosed(t *testing.T) {
	eachSite(t, []string{"--userland-proxy=false", "--firewall-backend=nftables", "--ip-forward=false"}, func(s *site) {
		s.Host.Set("net/ipv4/ip_forward", "1")
		s.Host.Set("net/ipv6/conf/all/forwarding", "1")
		dockersNetworksStayAsClosed(s)
	})
}

func dockersNetworksStayAsClosed(s *site, flags ...string) {
	s.dockersTown()
	ask := s.dockersQuestions()
	s.policy("DROP", "DROP")
	dropping := ask.outcomes(s)
	s.policy("ACCEPT", "ACCEPT")
	accepting := ask.outcomes(s)
	if got := accepting["outside -> what x1 publishes, by IPv4"]; got != "accept x1" {
		s.t.Fatalf("without us, what x1 publishes: %s", got)
	}

	s.StartDaemon(flags...)
	s.webAndOther()
	s.network("back", "--internal", "--ipv6", "--subnet", "172.30.3.0/24", "--subnet", "fd00:30:3::/64")
	s.Run("c3", "--network", "back")
	ours := s.questionsAmongUs()
	for policy, without := range map[string]map[string]string{"ACCEPT": accepting, "DROP": dropping} {
		s.policy(policy, policy)
		s.settled()
		if diff := cmp.Diff(without, ask.outcomes(s)); diff != "" {
			s.t.Errorf("FORWARD's policy is %s: Docker's own containers (-without us +with us):\n%s", policy, diff)
		}
		for question, got := range ours.outcomes(s) {
			if published := strings.HasSuffix(question, " published"); strings.HasPrefix(got, "accept") != published {
				s.t.Errorf("FORWARD's policy is %s: %s: %s", policy, question, got)
			}
		}
	}
}

// dockersOwn are the containers of dockersTown, with their networks.
var dockersOwn = map[string]string{"x1": "front", "y1": "side", "i1": "rear"}

// dockersTown are networks of Docker's own, front, side and, internal, rear, each with
// both families and a container: x1 publishes, y1 does not, i1 could not.
func (s *site) dockersTown() {
	s.t.Helper()
	for i, args := range [][]string{{"front"}, {"side"}, {"--internal", "rear"}} {
		subnets := []string{"--ipv6", "--subnet", fmt.Sprintf("172.31.%d.0/24", i+1), "--subnet", fmt.Sprintf("fd00:31:%d::/64", i+1)}
		s.Docker(append(append([]string{"network", "create"}, subnets...), args...)...)
	}
	s.Run("x1", "--network", "front", "-p", "7070:80", "-p", "127.0.0.1:7071:81")
	s.Run("y1", "--network", "side")
	s.Run("i1", "--network", "rear")
	for _, name := range []string{"x1", "y1", "i1"} {
		s.Docker("exec", "-d", name, "peer", "serve", "tcp:81")
	}
	// A new address of IPv6 answers when nobody else has it, and that takes up to two seconds.
	for container, network := range dockersOwn {
		for _, f := range both {
			for _, port := range []string{"80", "81"} {
				lab.Until(s.t, "the host reaches "+container, func() error {
					_, err := s.Host.Ask("tcp", join(f.address(s, container, network), port))
					return err
				})
			}
		}
	}
	for _, to := range []string{"172.30.0.0/15", "fd00:30::/31"} {
		s.Neighbour.Route(netip.MustParsePrefix(to), s.Host)
	}
}

// census is whom to ask for what: addresses with what they stand for, by client.
type census map[string]map[string]string

// dockersQuestions are everybody's about Docker's own containers, and theirs about the world.
func (s *site) dockersQuestions() census {
	s.t.Helper()
	targets := map[string]string{"127.0.0.1:7071": "127.0.0.1:7071"}
	for name, f := range both {
		for container, network := range dockersOwn {
			for _, port := range []string{"80", "81"} {
				targets[join(f.address(s, container, network), port)] = container + ":" + port + " by " + name
			}
		}
		targets[join(f.host(s), "7070")] = "what x1 publishes, by " + name
		targets[join(f.host(s), "7071")] = "what x1 publishes on 127.0.0.1, by " + name
		targets[join(f.internet, "80")] = "the world by " + name
	}
	all := census{}
	for _, client := range []string{"x1", "y1", "i1", "host", "outside", "neighbour"} {
		all[client] = targets
	}
	return all
}

// questionsAmongUs are those between Docker's containers and ours, of which what is
// published is answered and nothing else.
func (s *site) questionsAmongUs() census {
	s.t.Helper()
	fromOurs, fromTheirs, fromClosed := map[string]string{}, map[string]string{}, map[string]string{}
	for name, f := range both {
		for container, network := range map[string]string{"x1": "front", "y1": "side", "i1": "rear"} {
			fromOurs[join(f.address(s, container, network), "80")] = container + " by " + name
		}
		for container, network := range map[string]string{"c1": "web", "d1": "other", "c3": "back"} {
			fromTheirs[join(f.address(s, container, network), "80")] = container + " by " + name
		}
		if name == "IPv6" && s.Version() == lab.Oldest {
			continue // has no rules of IPv6: its networks are open, and its ports not published
		}
		fromClosed[join(f.host(s), "8080")] = "c1 from an internal network by " + name
		fromOurs[join(f.host(s), "7070")] = "x1 by " + name + ", published"
		fromTheirs[join(f.host(s), "8080")] = "c1 by " + name + ", published"
	}
	return census{"c1": fromOurs, "x1": fromTheirs, "y1": fromTheirs, "i1": fromClosed}
}

// outcomes asks everything at once.
func (c census) outcomes(s *site) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for client, targets := range c {
		asking.Go(func() {
			for address, got := range s.askAll(client, targets) {
				mu.Lock()
				all[client+" -> "+targets[address]] = got
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return all
}

// slow is how long is waited for answers of which nobody knows whether they come.
const slow = 2 * time.Second

// askAll has a client ask for all addresses at once. The answers are by address, e.g.
// accept x.
func (s *site) askAll(client string, targets map[string]string) map[string]string {
	hosts := map[string]*lab.Host{"host": s.Host, "outside": s.Outside, "neighbour": s.Neighbour}
	if h := hosts[client]; h != nil {
		return askFrom(h, targets)
	}
	var script strings.Builder
	for address := range targets {
		fmt.Fprintf(&script, "(a=$(peer ask -wait %s tcp %s); echo %[2]s $a) &\n", slow, address)
	}
	out, err := s.Exec(client, "/bin/sh", "-c", script.String()+"wait")
	if err != nil {
		s.t.Errorf("%s asks: %v", client, err)
	}
	all := map[string]string{}
	for line := range strings.Lines(out) {
		address, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		verdict, _, failed := strings.Cut(answer, ": ")
		if server, _, _ := strings.Cut(answer, " "); !failed {
			verdict = "accept " + server
		}
		all[address] = verdict
	}
	return all
}

func askFrom(h *lab.Host, targets map[string]string) map[string]string {
	all := map[string]string{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for address := range targets {
		asking.Go(func() {
			answer, err := h.AskFor("tcp", address, slow)
			got := string(hello.Judge(err))
			if err == nil {
				got += " " + answer.Server
			}
			mu.Lock()
			defer mu.Unlock()
			all[address] = got
		})
	}
	asking.Wait()
	return all
}
