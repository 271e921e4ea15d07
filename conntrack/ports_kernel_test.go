package conntrack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestKernelAConstantSenderFollowsAPortThatChangesHands is about senders that began when
// nothing was published, and pause at no time.
func TestKernelAConstantSenderFollowsAPortThatChangesHands(t *testing.T) {
	s := newStreet(t)
	all, some := []*sender{}, []*sender{}
	for _, address := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"} {
		all = append(all, s.sender(s.town.Outside, address), s.sender(s.Host, address))
	}
	for _, address := range []string{"192.0.2.101:8080", "[2001:db8:1::101]:8080"} {
		some = append(some, s.sender(s.town.Outside, address))
	}
	some = append(some, s.sender(s.Host, "127.0.0.1:8080"), s.sender(s.members["b"], "172.30.1.1:8080"))
	everywhere := scene.UDP("", 8080, 80, 1)
	nothing := []spec.Port{}
	for _, c := range []struct {
		name      string
		change    []func(*spec.State) error
		all, some string // who is reached by one address of the host, and by the others
	}{
		{"not yet published", nil, refused, refused},
		{"published", []func(*spec.State) error{s.publish("a", everywhere)}, "a", "a"},
		{"revoked", []func(*spec.State) error{s.publish("a", nothing...)}, refused, refused},
		{"published by another container", []func(*spec.State) error{s.publish("b", everywhere)}, "b", "b"},
		{"moved within the network", []func(*spec.State) error{s.publish("b", nothing...), s.publish("a", everywhere)}, "a", "a"},
		{"moved to another network", []func(*spec.State) error{s.publish("a", nothing...), s.publish("c", everywhere)}, "c", "c"},
		{"now in a shifted range", []func(*spec.State) error{s.publish("c", scene.UDP("", 8078, 78, 5))}, "c", "c"},
		{"now in one that leads to where nobody listens", []func(*spec.State) error{s.publish("c", scene.UDP("", 8078, 88, 5))}, refused, refused},
		{"on one address of either family only", []func(*spec.State) error{
			s.publish("c", scene.UDP("192.0.2.1", 8080, 80, 1), scene.UDP("2001:db8:1::1", 8080, 80, 1)),
		}, "c", refused},
		{"on the other addresses as well", []func(*spec.State) error{s.publish("c", nothing...), s.publish("a", everywhere)}, "a", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			during(func() {
				for _, x := range append(all, some...) {
					_ = x.send()
				}
			}, func() { s.do(c.change...) })
			for _, x := range all {
				x.reaches(t, c.all)
			}
			for _, x := range some {
				x.reaches(t, c.some)
			}
		})
	}
}

// TestKernelWhoWasSpokenToByTheHostReachesTheContainerThatHasItsPortNow is about a
// service that moves from the host into a container, and its peer.
func TestKernelWhoWasSpokenToByTheHostReachesTheContainerThatHasItsPortNow(t *testing.T) {
	s := newStreet(t)
	s.small = 0
	for _, host := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"} {
		peer := s.sender(s.town.Outside, host)
		s.Do(func() {
			from := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(host))
			conn, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(peer.here()))
			if err == nil {
				_, err = conn.Write([]byte("hello\n"))
				conn.Close()
			}
			s.must(err)
		})
		during(func() { _ = peer.send() }, func() { s.do(s.publish("a", scene.UDP("", 8080, 80, 1))) })
		peer.reaches(t, "a")
		s.do(s.publish("a"))
	}
}

func TestKernelOnlyTheConnectionsOfAPortFollowIt(t *testing.T) {
	s := newStreet(t)
	s.Serve("tcp", "192.0.2.1:22")
	s.town.Outside.Serve("udp", "198.51.100.1:8080")
	s.town.Outside.Serve("udp", "[2001:db8:ffff::1]:8080")
	port := []spec.Port{scene.UDP("", 8080, 80, 1), scene.TCP("", 8080, 80, 1)}
	s.do(s.publish("a", port...))
	conversations := map[*hello.Conn]string{
		s.town.Outside.Dial("tcp", "192.0.2.1:22"):            "host",
		s.town.Outside.Dial("tcp", "192.0.2.1:8080"):          "a",
		s.town.Outside.Dial("tcp", "[2001:db8:1::1]:8080"):    "a",
		s.members["b"].Dial("udp", "198.51.100.1:8080"):       "outside",
		s.members["b"].Dial("udp", "[2001:db8:ffff::1]:8080"): "outside",
		s.members["c"].Dial("udp", "198.51.100.1:8080"):       "outside",
		s.members["a"].Dial("tcp", "192.0.2.1:22"):            "host",
	}
	answered := func() {
		for c, server := range conversations {
			if answer, err := c.Ask(hello.Patience); err != nil || answer.Server != server {
				t.Errorf("%s: got %v, %v; want %s", c.LocalAddr(), answer, err, server)
			}
		}
	}
	answered()
	before := []map[string]bool{s.entries(spec.TCP, 22), s.entries(spec.TCP, 8080), s.entries(spec.UDP, 8080)}
	s.do(s.publish("a"))
	s.do(s.publish("c", port...))
	s.do(s.publish("c"), s.publish("b", port...))
	s.have = nil
	s.apply()
	if diff := cmp.Diff(before, []map[string]bool{s.entries(spec.TCP, 22), s.entries(spec.TCP, 8080), s.entries(spec.UDP, 8080)}); diff != "" {
		t.Errorf("entries (-before +after):\n%s", diff)
	}
	answered()
	s.town.Outside.MustReach("tcp", "192.0.2.1:8080", "b")
}

func TestKernelAConnectionBegunBeforeItsPortWasPublishedIsMadeByTheNextAttempt(t *testing.T) {
	s := newStreet(t)
	s.small = 0
	s.deaf("[::]:8080")
	answers := make(chan string)
	addresses := []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"}
	for _, address := range addresses {
		go func() {
			answer, err := s.town.Outside.Ask("tcp", address)
			answers <- fmt.Sprint(answer.Server, err)
		}()
	}
	lab.Until(t, "both have asked", func() error {
		if n := len(s.entries(spec.TCP, 8080)); n != len(addresses) {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	s.do(s.publish("a", scene.TCP("", 8080, 80, 1)))
	for range addresses {
		if answer := <-answers; answer != "a<nil>" {
			t.Errorf("got %s, want an answer of a", answer)
		}
	}
}

// TestKernelOnlyEntriesOfPortsThatChangeHandsGo is about entries in all positions, found
// by every way, at each change and when the layer is told to trust nothing.
func TestKernelOnlyEntriesOfPortsThatChangeHandsGo(t *testing.T) {
	for _, c := range []struct {
		name    string
		small   int
		trusted bool
	}{{"filtered dump", 0, true}, {"walk", 0, false}, {"one walk for all, since there are few", small, false}} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, lab.NewHost(t))
			m.small = c.small
			for _, k := range []kind{{unix.AF_INET, spec.UDP}, {unix.AF_INET6, spec.UDP}} {
				if c.trusted && !m.filtersPorts(k) {
					t.Skip("the kernel lacks a trustworthy filter by port")
				}
				m.ports[k] = c.trusted
			}
			m.facts.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}
			m.joined("b", 2)
			m.joined("c", 3)
			m.apply()
			m.bystanders()
			before := m.sources()

			early4, early6 := "[192.0.2.9 192.0.2.1]", "[2001:db8:1::9 2001:db8:1::1]"
			early := func() {
				m.flow("192.0.2.9:1000", "192.0.2.1:53", "192.0.2.1:53")
				m.flow("[2001:db8:1::9]:1000", "[2001:db8:1::1]:53", "[2001:db8:1::1]:53")
			}
			led := func(last string) []string {
				m.flow("192.0.2.9:1000", "192.0.2.1:53", "172.30.1."+last+":5353")
				m.flow("[2001:db8:1::9]:1000", "[2001:db8:1::1]:53", "[fd00:30:1::"+last+"]:5353")
				return []string{"[192.0.2.9 172.30.1." + last + "]", "[2001:db8:1::9 fd00:30:1::" + last + "]"}
			}
			early()
			m.publish("b", scene.UDP("", 53, 5353, 1))
			m.equal("gone when it is published", []string{early4, early6}, m.changes(m.apply))
			first := led("2")
			m.equal("gone while nothing happens", nil, m.changes(m.apply))
			m.publish("b")
			m.equal("gone when it is revoked", first, m.changes(m.apply))
			first = led("2")
			m.publish("c", scene.UDP("", 53, 5353, 1))
			m.equal("gone when another one has it, of what was missed", first, m.changes(m.apply))

			early()
			m.equal("gone when nothing changed", nil, m.changes(m.apply))
			m.have = nil
			m.equal("gone after a mend", []string{early4, early6}, m.changes(m.apply))
			early()
			again := newTable(t, m.Host)
			m.Table = again
			m.equal("gone at the first look", []string{early4, early6}, m.changes(m.apply))
			if diff := cmp.Diff(before, m.sources()); diff != "" {
				t.Errorf("left at last (-before +after):\n%s", diff)
			}
		})
	}
}

// bystanders are entries of the same port that are none of our business.
func (m *machine) bystanders() {
	m.t.Helper()
	m.flow("192.0.2.2:1000", "198.51.100.1:53", "198.51.100.1:53") // passes through
	m.flow("172.30.1.2:1000", "198.51.100.1:53", "198.51.100.1:53")
	m.flow("192.0.2.2:1000", "192.0.2.1:53", "172.17.0.2:53") // an engine's
	m.flow("192.0.2.2:1000", "192.0.2.1:54", "192.0.2.1:54")
	m.flow("192.0.2.2:53", "192.0.2.1:1000", "192.0.2.1:1000")
	m.flow("[::1]:1000", "[::1]:53", "[::1]:53") // the proxy's
	m.flow("[fe80::2]:1000", "[2001:db8:1::1]:53", "[2001:db8:1::1]:53")
	m.flow("[2001:db8:1::2]:1000", "[2001:db8:ffff::1]:53", "[2001:db8:ffff::1]:53")
	m.flowInZone("192.0.2.9:1000", "192.0.2.1:53", "192.0.2.1:53", 7)
}

// TestKernelWhatCouldNotBeLedElsewhereIsLedThereNextTime is about a port that is revoked,
// and one that is published, when the kernel does not answer.
func TestKernelWhatCouldNotBeLedElsewhereIsLedThereNextTime(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.facts.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	m.joined("b", 2)
	m.joined("c", 3)
	m.publish("b", scene.UDP("", 53, 53, 1))
	m.apply()
	m.flow("192.0.2.9:1000", "192.0.2.1:53", "172.30.1.2:53")
	m.flow("192.0.2.9:1000", "192.0.2.1:54", "192.0.2.1:54")
	whole := m.sockets
	broken := newTable(t, m.Host)
	broken.Close()
	m.sockets = broken.sockets
	m.publish("b")
	m.publish("c", scene.UDP("", 54, 53, 1))
	want := plan.New(m.state, &m.facts)
	if err := m.Apply(context.Background(), m.have, want); err == nil {
		t.Error("want an error")
	}
	m.have, m.sockets = want, whole
	m.equal("gone next time", []string{"[192.0.2.9 172.30.1.2]", "[192.0.2.9 192.0.2.1]"}, m.changes(m.apply))
}
