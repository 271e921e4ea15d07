package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// iptables are the commands of one of the two iptables, by family.
type iptables map[string]string

var (
	iptablesNFT    = iptables{"IPv4": "iptables-nft", "IPv6": "ip6tables-nft"}
	iptablesLegacy = iptables{"IPv4": "iptables-legacy", "IPv6": "ip6tables-legacy"}
)

func TestEngineAdministratorsDropsWin(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.published()
		s.dropsWin(iptablesNFT)
		s.chainOfOthersIsNamed()
	})
}

// TestEngineAdministratorsHaveTheSameWithLegacyIptables, of whose rules nothing tells: they
// are looked at every two seconds.
func TestEngineAdministratorsHaveTheSameWithLegacyIptables(t *testing.T) {
	eachEngineAfter(t, func(s *site) { useLegacyIptables(s); s.installUfw() }, func(s *site) {
		s.webAndOther()
		s.dropsWin(iptablesLegacy)
		h := s.healing(iptablesLegacy)
		h.slow = true
		h.mends("legacy", iptablesLegacy.filterTampered()...)
		h.rules()
		s.serveWith("--firewall=iptables")
		h.mends("with legacy iptables", slices.Concat(iptablesLegacy.chainsTampered(), ufwTampered()[:2])...)
		s.withoutUfw(iptablesLegacy)
		h.end()
	})
}

// useLegacyIptables restarts the engine on a host where iptables is the older one.
func useLegacyIptables(s *site) {
	s.StopDocker()
	s.Host.Run("nft", "flush", "ruleset")
	if _, err := s.Try("sh", "-ec", `cp -a /etc/alternatives /run/alternatives
for command in iptables ip6tables; do for part in "" -save -restore; do
	ln -sf /usr/sbin/$command-legacy$part /run/alternatives/$command$part
done; done
mount --bind /run/alternatives /etc/alternatives`); err != nil {
		s.t.Fatal(err)
	}
	s.StartDocker()
	s.dockersOwn("warm")
	s.Run("warm", "--network", "warm", "-p", "1:1")
	s.removeAll()
	for _, tool := range iptablesLegacy {
		for _, table := range []string{"raw", "mangle", "nat", "filter"} {
			s.Host.Run(tool, "-t", table, "-S") // to look makes the table
		}
	}
}

// published makes a network of both families with one container that publishes.
func (s *site) published() {
	s.t.Helper()
	s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
	s.Run("c1", "--network", "web", "-p", "8080:80")
	for _, f := range both {
		s.passes(f)
	}
}

// passes waits until packets pass both ways between c1 and outside.
func (s *site) passes(f family) {
	s.t.Helper()
	lab.Until(s.t, "c1 and outside reach each other", func() error {
		_, in := s.Outside.AskFor("tcp", join(f.host(s), "8080"), hello.Impatience)
		_, out := s.askFor("c1", join(f.internet, "80"))
		return errors.Join(in, out)
	})
}

// askFor has a container ask outside, without much patience.
func (s *site) askFor(container, address string) (string, error) {
	return s.Exec(container, "/bin/peer", "ask", "-wait", hello.Impatience.String(), "tcp", address)
}

// dropsWin is about what an administrator drops: in particular, which holds for our
// containers, and altogether, which is what our accepts are for.
func (s *site) dropsWin(tools iptables) {
	s.t.Helper()
	bridge := "dbr" + s.inspect("{{.Id}}", "web")[:12]
	for name, f := range both {
		tool := tools[name]
		rule := func(words string) { s.t.Helper(); s.Host.Run(tool, strings.Fields(words)...) }
		inwards, outwards := join(f.host(s), "8080"), join(f.internet, "80")
		if _, err := s.Host.Try(tool, "-S", "DOCKER-USER"); err == nil { // not so for IPv6 of old engines
			rule("-I DOCKER-USER -i " + bridge + " -j DROP")
			s.MustNotReach("c1", "tcp", outwards, hello.Drop)
			rule("-D DOCKER-USER -i " + bridge + " -j DROP")
			rule("-I DOCKER-USER -o " + bridge + " -j DROP")
			s.Outside.MustNotReach("tcp", inwards, hello.Drop)
			rule("-D DOCKER-USER -o " + bridge + " -j DROP")
			s.passes(f)
		}
		policy, _, _ := strings.Cut(s.Host.Run(tool, "-S", "FORWARD"), "\n")
		rule("-P FORWARD ACCEPT")
		rule("-A FORWARD -i eth0 -o " + bridge + " -p tcp --sport 1:2 -j DROP")
		rule("-A FORWARD -j DROP")
		s.passes(f)
		rule("-I FORWARD -o " + bridge + " -p tcp --dport 80 -j DROP")
		s.Outside.MustNotReach("tcp", inwards, hello.Drop)
		s.passesOut(f)
		rule("-D FORWARD 1")
		rule("-D FORWARD -j DROP")
		rule("-D FORWARD -i eth0 -o " + bridge + " -p tcp --sport 1:2 -j DROP")
		rule(policy)
		s.passes(f)
	}
}

// passesOut fails the test unless c1 reaches outside.
func (s *site) passesOut(f family) {
	s.t.Helper()
	s.MustReach("c1", "tcp", join(f.internet, "80"), "outside")
}

// chainOfOthersIsNamed is about a chain that no accept of ours can overrule: the
// container starts, and whoever does as they are told has it reached.
func (s *site) chainOfOthersIsNamed() {
	s.t.Helper()
	s.Host.Feed("table inet filter {\n chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}\n", "nft", "-f", "-")
	s.Run("c2", "--network", "web", "-p", "8081:80")
	s.Outside.MustNotReach("tcp", join(both["IPv4"].host(s), "8081"), hello.Drop)
	warnings := s.warnings(1)
	if !strings.Contains(warnings[0], "table inet filter, chain forward: policy drop") {
		s.t.Fatalf("warnings: %q", warnings)
	}
	_, lines, _ := strings.Cut(warnings[0], "made): ")
	for _, line := range strings.Split(lines, "; ") {
		s.Host.Run("sh", "-c", line)
	}
	for _, f := range both {
		s.passes(f)
	}
	s.warnings(0)
	if n := strings.Count(s.DaemonLog(), "table inet filter, chain forward"); n != 1 {
		s.t.Errorf("the log tells of it %d times, want once", n)
	}
	s.Host.Run("nft", "delete", "table", "inet", "filter")
}

// warnings are those of drawbridge status, once there are so many.
func (s *site) warnings(want int) []string {
	s.t.Helper()
	var status struct{ Warnings []string }
	lab.Until(s.t, fmt.Sprintf("%d warnings", want), func() error {
		out, err := s.Drawbridge("status", "--json")
		if err := errors.Join(err, json.Unmarshal([]byte(out), &status)); err != nil {
			return err
		}
		if len(status.Warnings) != want {
			return fmt.Errorf("warnings %q", status.Warnings)
		}
		return nil
	})
	return status.Warnings
}

// saved keeps all rules of iptables as they are, and returns what restores them.
func (s *site) saved(tools iptables) (restore func()) {
	s.t.Helper()
	rules := map[string]string{}
	for _, tool := range tools {
		rules[tool] = s.Host.Run(tool + "-save")
	}
	return func() {
		for tool, text := range rules {
			s.Host.Feed(text, tool+"-restore")
		}
	}
}

// rulesOfOthers are iptables', and chains but for empty ones that are always there.
func (s *site) rulesOfOthers(tools iptables) []string {
	s.t.Helper()
	var rules []string
	for _, tool := range slices.Sorted(maps.Values(tools)) {
		for line := range strings.Lines(s.Host.Run(tool + "-save")) {
			line, _, _ := strings.Cut(line, " [") // counters
			if strings.ContainsAny(line[:1], "-:") && !strings.HasSuffix(line, " ACCEPT") && !strings.Contains(strings.ToLower(line), "drawbridge") {
				rules = append(rules, tool+" "+line)
			}
		}
	}
	return rules
}
