// Package e2e shows on real engines, by packets, what Drawbridge promises. Every
// scenario has an engine of its own, and must leave nothing behind.
package e2e

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// site is a host with an engine and Drawbridge on it, and the world around it.
type site struct {
	*lab.Lab
	*lab.Engine
	t      *testing.T
	driver string // what Docker knows Drawbridge by
	ipam   string // who gives networks their addresses, "" for the driver
}

// eachEngine runs a scenario on each engine and then has Drawbridge removed: the
// host must be as it was before Drawbridge came.
func eachEngine(t *testing.T, scenario func(s *site)) {
	t.Helper()
	eachEngineAfter(t, func(*site) {}, scenario)
}

// eachEngineAfter first does what is no part of the scenario but leaves its traces
// on the host.
func eachEngineAfter(t *testing.T, prepare, scenario func(s *site)) {
	t.Helper()
	eachEngineWith(t, nil, prepare, scenario)
}

// eachEngineWith has the engines started with flags of their own.
func eachEngineWith(t *testing.T, flags []string, prepare, scenario func(s *site)) {
	t.Helper()
	eachSite(t, flags, func(s *site) {
		warmUp(s)
		prepare(s)
		before := s.Host.Snapshot()
		s.StartDaemon()
		scenario(s)
		s.removeAll()
		s.nothingLeft(before)
	})
}

// eachSite makes a site with each engine that can show the scenario, without Drawbridge
// but with a world that answers.
func eachSite(t *testing.T, flags []string, scenario func(s *site)) {
	t.Helper()
	t.Parallel()
	lab.EachOf(t, shownOn(t.Name()), func(t *testing.T, version string) {
		t.Cleanup(func() {
			if t.Skipped() {
				t.Error("what an engine cannot show stands in the table of scenarios, and nothing else is skipped")
			}
		})
		l := lab.New(t)
		l.Outside.Serve("tcp", ":80")
		l.Outside.Serve("udp", join(lab.Internet, "80"))
		l.Outside.Serve("udp", join(lab.Internet6, "80"))
		scenario(&site{Lab: l, Engine: l.Engine(version, flags...), t: t, driver: "drawbridge"})
	})
}

// eachClients runs a scenario on each engine, with each of the clients that people use
// with it in turn.
func eachClients(t *testing.T, scenario func(s *site)) {
	t.Helper()
	eachEngine(t, func(s *site) {
		for _, clients := range s.Clients() {
			s.t.Logf("with %s", clients)
			s.UseClients(clients)
			scenario(s)
			s.removeAll()
		}
	})
}

// warmUp has the engine publish a port once: what it never takes back of its own
// after the first time must not be taken for ours.
func warmUp(s *site) {
	s.WarmUp()
}

// ipams are the drivers from which Drawbridge's networks have addresses. An engine that
// was killed or restarted says hardly anything of those whose addresses are its own.
var ipams = []string{"drawbridge", "default"}

// network creates one of Drawbridge's networks.
func (s *site) network(name string, args ...string) {
	s.t.Helper()
	ipam := cmp.Or(s.ipam, s.driver)
	s.Docker(append(append([]string{"network", "create", "-d", s.driver, "--ipam-driver", ipam}, args...), name)...)
}

// dual creates a network with both families.
func (s *site) dual(name, v4, v6 string) {
	s.t.Helper()
	s.network(name, "--ipv6", "--subnet", v4, "--subnet", v6)
}

// inspect is one line of docker inspect -f.
func (s *site) inspect(format, name string) string {
	s.t.Helper()
	return strings.TrimSpace(s.Docker("inspect", "-f", format, name))
}

// address is a container's IPv4 address on a network.
func (s *site) address(container, network string) string {
	s.t.Helper()
	return text(s.Attachment(container, network).IPAddress)
}

// address6 is its IPv6 address.
func (s *site) address6(container, network string) string {
	s.t.Helper()
	return text(s.Attachment(container, network).GlobalIPv6Address)
}

// gateway is a container's IPv4 gateway on a network.
func (s *site) gateway(container, network string) string {
	s.t.Helper()
	return text(s.Attachment(container, network).Gateway)
}

// text is an address as a person writes it, "" for none.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// sees fails the test unless a server saw this address as its client's.
func (s *site) sees(what string, got netip.AddrPort, want string) {
	s.t.Helper()
	if got.Addr().String() != want {
		s.t.Fatalf("%s: the server saw %s as its client, want %s", what, got.Addr(), want)
	}
}

// removeAll ends every container and removes every network.
func (s *site) removeAll() {
	s.t.Helper()
	s.RemoveContainers()
	s.removeNetworks(s.Networks())
	_, _ = s.Drawbridge("status") // waits for what was answered, and is not done yet
}

// nothingLeft has Drawbridge removed and compares the host with what it was.
func (s *site) nothingLeft(before lab.Snapshot) {
	s.t.Helper()
	s.hasNothing()
	if out, err := s.Drawbridge("remove"); err != nil {
		s.t.Fatalf("remove: %v\n%s", err, out)
	}
	s.equals(before)
}

// hasNothing is about what Drawbridge knows of once all is removed.
func (s *site) hasNothing() {
	s.t.Helper()
	if out, err := s.Drawbridge("networks", "--json"); err != nil || strings.TrimSpace(out) != "[]" {
		s.t.Errorf("networks after all were removed: %s%v", out, err)
	}
	// An engine's bridge that has just come is followed from its event.
	lab.Until(s.t, "status after all were removed", func() error {
		out, err := s.Drawbridge("status")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

// equals compares the host with what it was.
func (s *site) equals(before lab.Snapshot) {
	s.t.Helper()
	if diff := withoutDice(before).Diff(withoutDice(s.Host.Snapshot())); diff != "" {
		s.t.Errorf("the host is not as it was before Drawbridge:\n%s", diff)
	}
}

// withoutDice leaves out what an engine rolls dice for: at each boot the MAC of docker0,
// and whenever it makes networks side by side, as for a swarm, whether its own jump to
// DOCKER-USER stands in FORWARD once or twice. If all scenarios are run with iptables,
// its tables stay as everybody leaves them, empty.
func withoutDice(s lab.Snapshot) lab.Snapshot {
	used := allWithIptables()
	return s.Without(func(section, line string) bool {
		return section == "links" && strings.HasPrefix(line, "docker0: address ") ||
			strings.HasSuffix(line, "chain FORWARD: counter jump DOCKER-USER") || line == "-A FORWARD -j DOCKER-USER" ||
			used && emptyTable.MatchString(line)
	})
}

// allWithIptables says that all scenarios are run with iptables.
func allWithIptables() bool { return os.Getenv("DRAWBRIDGE_FIREWALL") == "iptables" }

// emptyTable is what is left of a table of iptables that was used once.
var emptyTable = regexp.MustCompile(`^(table ip6? \w+(: chain [A-Z]+(: type .*)?)?|\*\w+|:[A-Z]+ ACCEPT|COMMIT)\s*$`)

// join makes an address with a port, also of IPv6.
func join(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}
