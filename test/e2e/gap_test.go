package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// gap is a time without rules of ours, and what was begun in it.
type gap struct {
	*site
	open, mend func() // take the rules away, and have the daemon make them anew
	held       bool   // the daemon is there, and has published ports
}

// TestEngineAGapInTheFirewallEndsWithoutATrace is about rules that somebody took away
// while the daemon was not there, or did not run: senders that keep their ports,
// connections whose first packet fell into the gap, and what passed though it is forbidden.
func TestEngineAGapInTheFirewallEndsWithoutATrace(t *testing.T) {
	eachEngineAfter(t, leavesTables, func(s *site) {
		s.takesCensus()
		s.neighbourKnowsTheWay()
		s.webAndOther()
		gap{site: s, open: func() {
			s.KillDaemon()
			s.razes()
		}, mend: func() { s.StartDaemon() }}.leavesNoTrace()

		s.serveWith("--firewall=iptables")
		s.guardedBy(ipt, "as told")
		signal := func(what unix.Signal) {
			if err := unix.Kill(s.DaemonPid(), what); err != nil {
				s.t.Fatal(err)
			}
		}
		gap{site: s, held: true, open: func() {
			signal(unix.SIGSTOP)
			s.razes()
		}, mend: func() { signal(unix.SIGCONT) }}.leavesNoTrace()
	})
}

// razes empties or takes away what rules of ours there are. The engine's stay.
func (s *site) razes() {
	s.t.Helper()
	for _, family := range []string{"inet", "bridge"} {
		if strings.Contains(s.Host.Run("nft", "list", "tables", family), "drawbridge") {
			s.Host.Run("nft", "delete", "table", family, "drawbridge")
		}
	}
	for _, tool := range []string{"iptables-nft", "ip6tables-nft"} {
		for _, table := range []string{"raw", "mangle", "nat"} {
			for line := range strings.Lines(s.Host.Run(tool, "-t", table, "-S")) {
				if chain, ours := strings.CutPrefix(strings.TrimSpace(line), "-N DRAWBRIDGE-"); ours {
					s.Host.Run(tool, "-t", table, "-F", "DRAWBRIDGE-"+chain)
				}
			}
		}
	}
}

func (s *site) neighbourKnowsTheWay() {
	s.t.Helper()
	s.Neighbour.Run("ip", "route", "add", "172.30.0.0/16", "via", s.Host.Addr.String())
	s.Neighbour.Run("ip", "route", "add", "fd00:30::/32", "via", s.Host.Addr6.String())
}

// takesCensus has Outside count what arrives with a container's own address, and first
// packets of connections that arrive so, or are sent to a published port.
func (s *site) takesCensus() {
	s.t.Helper()
	s.Outside.Feed(`table inet census {
		counter private { }
		counter begun { }
		chain in {
			type filter hook prerouting priority -500
			ip saddr 172.30.0.0/16 goto private
			ip6 saddr fd00:30::/32 goto private
		}
		chain private { counter name private; tcp flags & (syn | ack) == syn counter name begun; }
		chain out { type filter hook output priority 500; tcp dport 8080 tcp flags & (syn | ack) == syn counter name begun; }
	}`, "nft", "-f", "-")
}

var packets = regexp.MustCompile(`packets (\d+)`)

// census is how many of these there have been.
func (s *site) census(counter string) int {
	s.t.Helper()
	n, err := strconv.Atoi(packets.FindStringSubmatch(s.Outside.Run("nft", "list", "counter", "inet", "census", counter))[1])
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (g gap) leavesNoTrace() {
	g.t.Helper()
	before, flows := g.census("private"), g.flows()
	flowing(g.t, flows)
	g.open()
	out, in := g.senders()
	lab.Until(g.t, "containers' own addresses outside", func() error {
		if n := g.census("private") - before; n < 10 {
			return fmt.Errorf("%d packets", n)
		}
		return nil
	})
	forbidden := g.forbidden()
	ended := g.attempts()
	opened := time.Now()
	g.mend()
	g.settled()
	mended := time.Now()

	g.reached(out, "outside")
	g.reached(in, "c1")
	g.t.Logf("senders were answered %v after the mend, which took %v", time.Since(mended), mended.Sub(opened))
	after := g.census("private")
	g.t.Logf("in the gap %d packets left with a container's own address, and %d connections were made that are forbidden", after-before, len(forbidden))
	for range cap(ended) {
		if err := <-ended; err != nil {
			g.t.Errorf("a connection that was begun in the gap: %v", err)
		}
	}
	flowing(g.t, flows)
	silent(g.t, forbidden)
	if now := g.census("private"); now != after {
		g.t.Errorf("after the mend %d packets left with a container's own address", now-after)
	}
}

// flows are connections that nobody may notice anything on.
func (g gap) flows() []*hello.Conn {
	g.t.Helper()
	var all []*hello.Conn
	for _, f := range both {
		all = append(all, g.Outside.Dial("tcp", join(f.host(g.site), "8080")), g.Host.Dial("tcp", join(f.address(g.site, "c1", "web"), "80")))
		for _, from := range []string{"c1", "c2", "d1"} {
			all = append(all, g.Dial(from, "tcp", join(f.internet, "80")), g.Dial(from, "tcp", join(f.host(g.site), "8080")))
		}
		all = append(all, g.Dial("c2", "tcp", join(f.address(g.site, "c1", "web"), "80")), g.Dial("c2", "udp", join(f.internet, "80")))
	}
	return all
}

func flowing(t *testing.T, flows []*hello.Conn) {
	t.Helper()
	for _, c := range flows {
		if _, err := c.Ask(hello.Patience); err != nil {
			t.Errorf("a connection of before the gap, by %s: %v", c.LocalAddr(), err)
		}
	}
}

// senders ask without pause from now on: out of a container, and in to a published port.
func (g gap) senders() (out, in []*sender) {
	g.t.Helper()
	for _, f := range both {
		out = append(out, g.sendBy(f.internet, g.Dial("c2", "udp", join(f.internet, "80"))))
		in = append(in, g.sendTo(f.host(g.site)), g.sendBy(f.host(g.site)+" from d1", g.Dial("d1", "udp", join(f.host(g.site), "8080"))))
	}
	return out, in
}

// forbidden are connections with c1's own address from elsewhere.
func (g gap) forbidden() []*hello.Conn {
	g.t.Helper()
	var all []*hello.Conn
	for _, f := range both {
		at := join(f.address(g.site, "c1", "web"), "80")
		for _, network := range []string{"tcp", "udp"} {
			all = append(all, g.Dial("d1", network, at), g.Neighbour.Dial(network, at))
		}
	}
	flowing(g.t, all)
	return all
}

// silent asserts that none of them is answered any more.
func silent(t *testing.T, forbidden []*hello.Conn) {
	t.Helper()
	var asking sync.WaitGroup
	for _, c := range forbidden {
		asking.Go(func() {
			if answer, err := c.Ask(hello.Impatience); err == nil {
				t.Errorf("%s was let in by nothing but the gap, and is still answered: %v", c.LocalAddr(), answer)
			}
		})
	}
	asking.Wait()
}

// attempts are connections whose first packet has left when it returns; each has an end.
func (g gap) attempts() chan error {
	g.t.Helper()
	all := map[string]*lab.Host{}
	for _, f := range both {
		all[join(f.internet, "80")] = g.Inside("c2")
		if g.held {
			all[join(f.host(g.site), "8080")] = g.Outside
		}
	}
	ended := make(chan error, len(all))
	for address, from := range all {
		before := g.census("begun")
		go func() {
			_, err := from.AskFor("tcp", address, 2*hello.Patience)
			ended <- err
		}()
		lab.Until(g.t, "an attempt to reach "+address, func() error {
			if g.census("begun") == before {
				return errors.New("nothing has left")
			}
			return nil
		})
	}
	return ended
}
