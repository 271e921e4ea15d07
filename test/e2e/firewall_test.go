package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// The firewalls that there can be.
const (
	nft    = "nftables"
	ipt    = "iptables-nft"
	legacy = "iptables-legacy"
)

// serveWith starts the daemon anew with other flags.
func (s *site) serveWith(flags ...string) {
	s.t.Helper()
	s.KillDaemon()
	s.StartDaemon(flags...)
}

// leavesTables has a firewall leave what it never takes back: tables and chains of
// iptables that others may have begun to use.
func leavesTables(s *site) {
	s.StartDaemon("--firewall=iptables")
	s.network("warm")
	s.removeAll()
	s.StopDaemon()
}

// guardedBy fails the test unless this firewall has all rules of ours, and says so.
func (s *site) guardedBy(firewall, reason string) {
	s.t.Helper()
	s.settled()
	out, err := s.Drawbridge("status")
	if want := "firewall: " + firewall + " (" + reason; err != nil || !strings.Contains(out, want) {
		s.t.Errorf("want %q, got %v\n%s", want, err, out)
	}
	if line := "firewall: " + firewall + " (" + reason; !strings.Contains(s.DaemonLog(), line) {
		s.t.Errorf("the log lacks %q", line)
	}
	if got := s.firewalls(); !slices.Equal(got, []string{firewall}) {
		s.t.Errorf("want rules of %s alone, there are such of %q", firewall, got)
	}
}

// firewalls are those that have rules of ours.
func (s *site) firewalls() []string {
	s.t.Helper()
	var all []string
	for _, kind := range []string{ipt, legacy} {
		save := strings.TrimPrefix(kind, "iptables")
		if strings.Contains(s.Host.Run("iptables"+save+"-save")+s.Host.Run("ip6tables"+save+"-save"), "DRAWBRIDGE") {
			all = append(all, kind)
		}
	}
	if strings.Contains(s.Host.Run("nft", "list", "tables"), "drawbridge") {
		all = append(all, nft)
	}
	return all
}

// goesOn begins streams, from outside to c1's published port and from c2 to the
// outside, and new ones all the time; what is closed is asked for too. They must live,
// and that stay closed, until the function returned is called.
func (s *site) goesOn() (stop func()) {
	s.t.Helper()
	var stops []func()
	for name, f := range both {
		published := join(f.host(s), "8080")
		for what, conn := range map[string]*hello.Conn{
			name + " from outside to a published port": s.Outside.Dial("tcp", published),
			name + " from a container to the outside":  s.Dial("c2", "tcp", join(f.internet, "80")),
		} {
			stops = append(stops, lab.Steadily(s.t, what, func() error {
				_, err := conn.Ask(hello.Patience)
				return err
			}))
		}
		stops = append(stops, lab.Steadily(s.t, name+", new connections", func() error {
			_, err := s.Outside.Ask("tcp", published)
			return err
		}))
	}
	closed := join(s.address("c1", "web"), "80")
	stops = append(stops, lab.Steadily(s.t, "what is not published", func() error {
		answer, err := s.Neighbour.AskFor("tcp", closed, hello.Impatience)
		if hello.Judge(err) != hello.Drop {
			return fmt.Errorf("%v %w", answer, err)
		}
		return nil
	}))
	return func() {
		s.t.Helper()
		for _, stop := range stops {
			stop()
		}
	}
}

// TestEngineTheFirewallMayBeIPTables shows on it what a network is for, and has it
// chosen, and given up, under running containers.
func TestEngineTheFirewallMayBeIPTables(t *testing.T) {
	eachEngineAfter(t, leavesTables, func(s *site) {
		s.neighboursKnowTheWay()
		s.webAndOther()
		stop := s.goesOn()
		s.guardedBy(nft, "auto: the kernel took a trial of all that it needs")
		s.serveWith("--firewall=iptables")
		s.guardedBy(ipt, "as told")
		s.serveWith("--firewall=nftables")
		s.guardedBy(nft, "as told")
		s.serveWith("--firewall=iptables")
		s.guardedBy(ipt, "as told")
		stop()
		s.doesMainJob()
		s.Docker("restart", "-t", "1", "c1")
		s.serveAgain("c1")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		s.removeAll()
		s.keepsApartWithIPTables()
	})
}

// keepsApartWithIPTables has frames within a bridge shown to iptables and not, in both
// families or in one, on a bridge that somebody else has a port of.
func (s *site) keepsApartWithIPTables() {
	s.t.Helper()
	s.Cable("lan0", s.Host, s.Neighbour)
	s.Host.Run("sh", "-ec", "ip link add br-lan type bridge forward_delay 0; ip link set lan0 master br-lan up; ip link set br-lan up")
	s.Neighbour.Run("sh", "-ec", `
		echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
		ip addr add 172.30.1.200/24 dev lan0; ip addr add fd00:30:1::200/64 dev lan0; ip link set lan0 up`)
	s.Neighbour.Serve("tcp", ":8000")
	s.twoOn(bridgeKey+"enable_icc=false", bridgeKey+"name=br-lan")
	found := s.bridgedFrames()
	for _, row := range []struct {
		shown4, shown6 string
		isolated       bool
	}{{"0", "0", true}, {"1", "1", false}, {"1", "0", true}} {
		s.t.Logf("bridge-nf-call-iptables %s, -ip6tables %s", row.shown4, row.shown6)
		s.Host.Set("net/bridge/bridge-nf-call-iptables", row.shown4)
		s.Host.Set("net/bridge/bridge-nf-call-ip6tables", row.shown6)
		s.isolates(row.isolated)
		for _, f := range both {
			// Silence, or, once c2 has given up to look for its neighbour, no route to it.
			if got, err := s.Inside("c2").AskFor("tcp", join(f.address(s, "c1", "web"), "80"), hello.Impatience); err == nil {
				s.t.Fatalf("containers that are kept apart: %v", got)
			}
			if row.shown4 != row.shown6 {
				continue // isolated ports lose what is published to the same bridge where it is shown
			}
			for _, client := range []string{"c1", "c2"} {
				s.MustReach(client, "tcp", join(f.host(s), "8080"), "c1")
			}
			s.MustReach("c2", "tcp", join(f.internet, "80"), "outside")
			s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
			s.Host.MustReach("tcp", join(f.address(s, "c2", "web"), "80"), "c2")
		}
		s.MustReach("c1", "tcp", "172.30.1.200:8000", "neighbour")
		s.MustReach("c2", "tcp", "[fd00:30:1::200]:8000", "neighbour")
	}
	s.showBridgedFrames(found)
	s.removeAll()
	s.Host.Run("ip", "link", "del", "lan0")
	s.Host.Run("ip", "link", "del", "br-lan")
}

// isolates waits until the ports of our containers, and no others, are isolated or not,
// and status says so.
func (s *site) isolates(want bool) {
	s.t.Helper()
	lab.Until(s.t, fmt.Sprintf("isolated: %t", want), func() error {
		ports := s.Host.Run("bridge", "-details", "link", "show")
		status, err := s.Drawbridge("status")
		told := strings.Contains(status, "by their bridge's ports")
		if got := strings.Count(ports, " isolated on "); got == 2 != want || got%2 != 0 || told != want || err != nil {
			return fmt.Errorf("%d are: %w\n%s%s", got, err, ports, status)
		}
		return nil
	})
}

// TestEngineTheFirewallFollowsAKernelWithoutNFTables beside an engine that writes its
// rules by legacy iptables, as it does where there is nothing else.
func TestEngineTheFirewallFollowsAKernelWithoutNFTables(t *testing.T) {
	t.Parallel()
	lab.EachEngine(t, func(t *testing.T, version string) {
		l := lab.New(t)
		l.Outside.Serve("tcp", ":80")
		s := &site{Lab: l, Engine: l.LegacyEngine(version), t: t, driver: "drawbridge"}
		warmUp(s)
		leavesTables(s)
		before := s.Host.Snapshot()
		s.WithoutNetfilter(true)
		s.StartDaemon()
		s.neighboursKnowTheWay()
		s.webAndOther()
		stop := s.goesOn()
		s.guardedBy(legacy, "auto: nftables refused: open nfnetlink: socket: protocol not supported")
		for _, notice := range []string{"nftables cannot be read", "connection tracking cannot be cleaned"} {
			if out, err := s.Drawbridge("status"); err != nil || !strings.Contains(out, notice) {
				s.t.Errorf("status does not say that %s: %v\n%s", notice, err, out)
			}
		}
		s.WithoutNetfilter(false)
		s.serveWith()
		s.guardedBy(nft, "auto: the kernel took a trial of all that it needs")
		s.serveWith("--firewall=iptables")
		s.guardedBy(legacy, "as told")
		stop()
		s.Host.MustReach("tcp", "127.0.0.1:8080", "c1")
		s.MustReach("d1", "tcp", "192.0.2.1:8080", "c1")
		s.MustNotReach("d1", "tcp", join(s.address("c1", "web"), "80"), hello.Drop)
		s.removeAll()
		s.nothingLeft(before)
	})
}

// TestEngineChangesItsOwnFirewall between iptables and nftables, under containers that
// outlive it.
func TestEngineChangesItsOwnFirewall(t *testing.T) {
	keeps := "--live-restore"
	eachEngineWith(t, []string{keeps}, warmUpIPv6, func(s *site) {
		found4, found6 := policies(s)
		s.policy("DROP", "DROP")
		s.neighboursKnowTheWay()
		s.webAndOther()
		s.dockersOwn("docker")
		s.Run("k1", "--network", "docker", "-p", "7070:80")
		stop := s.goesOn()
		for _, flags := range [][]string{{keeps, "--firewall-backend=nftables", "--ip-forward=false"}, {keeps}} {
			s.t.Logf("dockerd %q", flags)
			s.Flags(flags...)
			restartDocker(s)
			s.settled()
			for _, f := range both {
				c1, k1 := f.address(s, "c1", "web"), f.address(s, "k1", "docker")
				s.MustNotReach("k1", "tcp", join(c1, "80"), hello.Drop)
				s.MustNotReach("c1", "tcp", join(k1, "80"), hello.Drop)
				s.MustReach("k1", "tcp", join(f.host(s), "8080"), "c1")
				s.MustReach("c1", "tcp", join(f.host(s), "7070"), "k1")
			}
			s.acceptsStandInForward()
		}
		stop()
		s.removeAll()
		restartDocker(s)
		s.policy(found4, found6)
	})
}

// acceptsStandInForward shows that each of our bridges is let through FORWARD, which
// drops, and that nothing else holds an accept of ours.
func (s *site) acceptsStandInForward() {
	s.t.Helper()
	const want = 4 // in and out, of web and other
	for _, tool := range []string{"iptables-nft", "ip6tables-nft"} {
		rules := s.Host.Run(tool, "-S")
		if !strings.Contains(rules, "-P FORWARD DROP\n") {
			s.t.Errorf("%s: FORWARD does not drop", tool)
		}
		total, there := 0, 0
		for line := range strings.Lines(rules) {
			if strings.Contains(line, "drawbridge network") {
				total++
			}
			if strings.HasPrefix(line, "-A FORWARD ") && strings.Contains(line, "drawbridge network") {
				there++
			}
		}
		if total != want || there != want {
			s.t.Errorf("%s: want %d accepts in FORWARD and nowhere else, there are %d and %d:\n%s", tool, want, there, total-there, rules)
		}
	}
}
