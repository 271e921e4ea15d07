package conntrack

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// The ports of the host that lead to port 80 of a. The host itself hears nothing on the
// first, as where a port is held that nobody serves.
const streams, datagrams = ":8080", ":8081"

// newAvenue is a street on which a publishes, and what lies outside answers. What arrives
// there with a container's own address is counted, and never answered.
func newAvenue(t *testing.T, w wall) *street {
	t.Helper()
	s := newStreetBehind(t, w)
	s.town.Outside.Serve("tcp", "[::]:80")
	s.town.Outside.Serve("udp", lab.Internet+":80")
	s.town.Outside.Serve("udp", "["+lab.Internet6+"]:80")
	s.town.Outside.Feed(`table inet census {
		counter private { }
		chain in {
			type filter hook prerouting priority -500
			ip saddr 172.30.0.0/16 counter name private
			ip6 saddr fd00:30::/32 counter name private
		}
	}`, "nft", "-f", "-")
	// Somebody else's firewall, without which the kernel would track nothing in a gap.
	s.Feed("table inet others { chain in { type filter hook prerouting priority 0; ct state new counter; }; }", "nft", "-f", "-")
	s.town.Neighbour.Route(netip.MustParsePrefix("172.30.1.0/24"), s.Host)
	s.town.Neighbour.Route(netip.MustParsePrefix("fd00:30:1::/64"), s.Host)
	s.deaf("[::]" + streams)
	s.do(s.publish("a", scene.TCP("", 8080, 80, 1), scene.UDP("", 8081, 80, 1)))
	return s
}

var packets = regexp.MustCompile(`packets (\d+)`)

// private is how many packets have arrived outside with a container's own address.
func (s *street) private() int {
	s.t.Helper()
	n, err := strconv.Atoi(packets.FindStringSubmatch(s.town.Outside.Run("nft", "list", "counter", "inet", "census", "private"))[1])
	s.must(err)
	return n
}

// mend is what follows when the firewall was found missing.
func (s *street) mend() {
	s.t.Helper()
	s.have = nil
	s.apply()
}

// of are the entries of conversations, all that there is to them.
func (s *street) of(conversations map[*hello.Conn]string) map[netip.AddrPort]string {
	s.t.Helper()
	found := map[netip.AddrPort]string{}
	for c := range conversations {
		found[c.LocalAddr()] = ""
	}
	s.must(s.dump(unix.AF_UNSPEC, nil, func(e entry) {
		if _, known := found[e.client]; known {
			found[e.client] += fmt.Sprintf("asks %s, %s answers %s: %x", e.asked, e.server, e.shown, e.id)
		}
	}))
	return found
}

// TestKernelWhatIsRightLivesThroughMends has many connections of every kind go on.
func TestKernelWhatIsRightLivesThroughMends(t *testing.T) {
	walls(t, func(t *testing.T, w wall) {
		s := newAvenue(t, w)
		conversations := map[*hello.Conn]string{}
		for range 5 {
			for _, x := range []struct {
				from                     *lab.Host
				network, address, server string
			}{
				{s.town.Outside, "tcp", "192.0.2.1" + streams, "a"},
				{s.town.Outside, "tcp", "[2001:db8:1::1]" + streams, "a"},
				{s.town.Outside, "udp", "192.0.2.1" + datagrams, "a"},
				{s.Host, "tcp", "127.0.0.1" + streams, "a"},
				{s.Host, "udp", "172.30.1.1" + datagrams, "a"},
				{s.Host, "tcp", "172.30.1.2:80", "a"},
				{s.Host, "udp", "[fd00:30:1::2]:80", "a"},
				{s.Host, "tcp", lab.Internet + ":80", "outside"},
				{s.members["a"], "tcp", "192.0.2.1" + streams, "a"},
				{s.members["b"], "tcp", "192.0.2.1" + streams, "a"},
				{s.members["b"], "udp", "[2001:db8:1::1]" + datagrams, "a"},
				{s.members["b"], "tcp", "172.30.1.2:80", "a"},
				{s.members["b"], "udp", "[fd00:30:1::2]:80", "a"},
				{s.members["b"], "tcp", lab.Internet + ":80", "outside"},
				{s.members["b"], "udp", "[" + lab.Internet6 + "]:80", "outside"},
				{s.members["c"], "tcp", "[2001:db8:1::1]" + streams, "a"},
				{s.members["c"], "udp", "192.0.2.1" + datagrams, "a"},
				{s.members["c"], "udp", lab.Internet + ":80", "outside"},
			} {
				conversations[x.from.Dial(x.network, x.address)] = x.server
			}
		}
		answered := func() {
			t.Helper()
			for c, server := range conversations {
				if answer, err := c.Ask(hello.Patience); err != nil || answer.Server != server {
					t.Errorf("%s: got %v, %v; want %s", c.LocalAddr(), answer, err, server)
				}
			}
		}
		answered()
		before := s.of(conversations)
		for range 3 {
			s.wall.raze(s)
			s.mend()
			if diff := cmp.Diff(before, s.of(conversations)); diff != "" {
				t.Fatalf("entries (-before +after):\n%s", diff)
			}
			answered()
		}
	})
}

// attempt is a connection that somebody tries to make: its first packet again and again,
// after pauses that double.
type attempt struct {
	what  string
	begun time.Time
	ended chan outcome
}

type outcome struct {
	at  time.Time
	err error
}

func (s *street) attempt(from *lab.Host, address string) attempt {
	a := attempt{address, time.Now(), make(chan outcome, 1)}
	go func() {
		_, err := from.AskFor("tcp", address, 2*hello.Patience)
		a.ended <- outcome{time.Now(), err}
	}()
	return a
}

// asked is what connections of TCP are asked for.
func (s *street) asked() map[string]bool {
	s.t.Helper()
	found := map[string]bool{}
	s.must(s.dump(unix.AF_UNSPEC, nil, func(e entry) {
		if e.proto == spec.TCP {
			found[e.asked.String()] = true
		}
	}))
	return found
}

// followsAtOnce asserts that the first packet behind a moment is the one that succeeds.
func (a attempt) followsAtOnce(t *testing.T, moment time.Time) {
	t.Helper()
	end := <-a.ended
	next := a.begun.Add(time.Second) // and then 2 s later, 4 s, …
	for pause := 2 * time.Second; next.Before(moment); pause *= 2 {
		next = next.Add(pause)
	}
	late := end.at.Sub(next)
	t.Logf("to %s: begun %v before the mend, ended %v after it", a.what, moment.Sub(a.begun), end.at.Sub(moment))
	if end.err != nil || late > 1800*time.Millisecond {
		t.Errorf("to %s: ended %v after the next attempt: %v", a.what, late, end.err)
	}
}

// TestKernelWhatBeganInAGapIsAsItShouldBeAfterTheMend is about senders that keep their
// ports, connections whose first packet fell into the gap, and what was let in.
func TestKernelWhatBeganInAGapIsAsItShouldBeAfterTheMend(t *testing.T) {
	walls(t, func(t *testing.T, w wall) {
		s := newAvenue(t, w)
		a, b, c := s.members["a"], s.members["b"], s.members["c"]
		s.wall.raze(s)

		right := map[*sender]string{
			s.sender(b, lab.Internet+":80"):                       "outside",
			s.sender(b, "["+lab.Internet6+"]:80"):                 "outside",
			s.sender(a, lab.Internet+":80"):                       "outside",
			s.sender(c, lab.Internet+":80"):                       "outside",
			s.sender(s.town.Outside, "192.0.2.1"+datagrams):       "a",
			s.sender(s.town.Outside, "[2001:db8:1::1]"+datagrams): "a",
			s.sender(s.Host, "127.0.0.1"+datagrams):               "a",
			s.sender(b, "172.30.1.1"+datagrams):                   "a",
			s.sender(c, "[2001:db8:1::1]"+datagrams):              "a",
		}
		forbidden := s.passes(c, s.town.Neighbour)
		speak := func() {
			for x := range right {
				_ = x.send()
			}
		}
		var attempts []attempt
		var mended time.Time
		left := 0
		during(speak, func() {
			lab.Until(t, "containers' own addresses outside", func() error {
				if left = s.private(); left < 8 {
					return fmt.Errorf("%d packets", left)
				}
				return nil
			})
			attempts = []attempt{
				s.attempt(b, lab.Internet+":80"), s.attempt(b, "["+lab.Internet6+"]:80"),
				s.attempt(s.town.Outside, "192.0.2.1"+streams), s.attempt(s.town.Outside, "[2001:db8:1::1]"+streams),
			}
			lab.Until(t, "attempts", func() error {
				known := s.asked()
				for _, x := range attempts {
					if !known[x.what] {
						return fmt.Errorf("none to %s", x.what)
					}
				}
				return nil
			})
			s.mend()
			mended = time.Now()
		})
		for x, server := range right {
			x.reaches(t, server)
		}
		for _, x := range attempts {
			x.followsAtOnce(t, mended)
		}
		after := s.private()
		t.Logf("in the gap %d packets left with a container's own address, and %d connections were made that are forbidden", after, len(forbidden))
		for range 25 {
			speak()
		}
		for x, server := range right {
			x.reaches(t, server)
		}
		if now := s.private(); now != after {
			t.Errorf("after the mend, %d packets left with a container's own address", now-after)
		}
		var asking sync.WaitGroup
		for _, x := range forbidden {
			asking.Go(func() {
				if answer, err := x.Ask(hello.Impatience); err == nil {
					t.Errorf("%s was let in by nothing but the gap, and is still answered: %v", x.LocalAddr(), answer)
				}
			})
		}
		asking.Wait()
	})
}

// passes are conversations with a's own address, which only a gap lets in.
func (s *street) passes(from ...*lab.Host) []*hello.Conn {
	s.t.Helper()
	var all []*hello.Conn
	for _, h := range from {
		for _, address := range []string{"172.30.1.2:80", "[fd00:30:1::2]:80"} {
			for _, network := range []string{"tcp", "udp"} {
				conn := h.Dial(network, address)
				if _, err := conn.Ask(hello.Patience); err != nil {
					s.t.Fatalf("the test is in vain: %s is closed without a firewall: %v", address, err)
				}
				all = append(all, conn)
			}
		}
	}
	return all
}

// TestKernelWhatIsRoutedToAContainerKeepsItsAddress is about a container that is a router:
// what goes there leaves by no interface of the host's, and is hidden from nobody.
func TestKernelWhatIsRoutedToAContainerKeepsItsAddress(t *testing.T) {
	s := newStreet(t)
	s.Run("ip", "route", "add", "10.9.0.0/16", "via", "172.30.1.3")
	s.Run("ip", "route", "add", "fd09::/64", "via", "fd00:30:1::3")
	s.Run("ip", "route", "add", "unreachable", "10.10.0.0/16")
	for _, target := range []string{"10.9.0.1", "[fd09::1]", "10.10.0.1", "224.0.0.251", "255.255.255.255", lab.Internet, "[" + lab.Internet6 + "]"} {
		client := "172.30.1.2:1000"
		if strings.HasPrefix(target, "[") {
			client = "[fd00:30:1::2]:1000"
		}
		s.flow(client, target+":53", target+":53")
	}
	want := []string{"[172.30.1.2 " + lab.Internet + "]", "[fd00:30:1::2 " + lab.Internet6 + "]"}
	s.equal("gone after a mend", want, s.changes(s.mend))
}
