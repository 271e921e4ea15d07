package e2e

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineASenderThatKeepsItsPortReachesTheNextContainer is about what the kernel
// remembers of connections: without its forgetting the first container, and that for a
// while there was none, datagrams would go there for as long as they keep coming.
func TestEngineASenderThatKeepsItsPortReachesTheNextContainer(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		senders := []*sender{s.sendTo("192.0.2.1"), s.sendTo("2001:db8:1::1")}
		reached := func(name string) {
			s.t.Helper()
			s.reached(senders, name)
		}
		var before []string
		for _, c := range []struct {
			name string
			end  []string
			back []string // the way back, if there is one
		}{
			{"c1", []string{"rm", "-f", "c1"}, nil},
			{"c2", []string{"network", "disconnect", "web", "c2"}, []string{"network", "connect", "web", "c2"}},
			{"c3", []string{"stop", "-t", "1", "c3"}, nil},
		} {
			s.Run(c.name, "--network", "web", "-p", "8080:80/udp")
			reached(c.name)
			s.MustReach(c.name, "udp", join(lab.Internet, "80"), "outside")
			s.MustReach(c.name, "udp", join(lab.Internet6, "80"), "outside")
			own := []string{s.address(c.name, "web"), s.address6(c.name, "web")}
			for _, address := range own {
				if len(s.tracked(address)) == 0 {
					s.t.Errorf("the test is in vain: the kernel remembers nothing of %s", address)
				}
			}
			s.Docker(c.end...)
			before = append(before, own...)
			for _, address := range before {
				if left := s.tracked(address); len(left) > 0 {
					s.t.Errorf("after %s went, the kernel remembers of %s:\n%s", c.name, address, strings.Join(left, "\n"))
				}
			}
			reached("")
			if c.back != nil {
				s.Docker(c.back...)
				reached(c.name)
				s.Docker("rm", "-f", c.name)
				reached("")
			}
		}
	})
}

// sender asks without pause, by one socket.
type sender struct {
	host   string
	server atomic.Value // who answered the last question; "" for nobody
}

// sendTo has Outside ask some fifty times a second for port 8080 of a host.
func (s *site) sendTo(host string) *sender {
	s.t.Helper()
	return s.sendBy(host, s.Outside.Dial("udp", join(host, "8080")))
}

// sendBy has somebody ask a host that often.
func (s *site) sendBy(host string, conn *hello.Conn) *sender {
	s.t.Helper()
	x := &sender{host: host}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for {
			answer, _ := conn.Ask(100 * time.Millisecond)
			x.server.Store(answer.Server)
			select {
			case <-end:
				return
			case <-pace.C:
			}
		}
	}()
	s.t.Cleanup(func() {
		close(end)
		<-ended
	})
	return x
}

// reached waits until all senders are answered by the same container, or by nobody if that
// is "".
func (s *site) reached(senders []*sender, name string) {
	s.t.Helper()
	for _, x := range senders {
		lab.Until(s.t, "a sender to "+x.host+" reaches "+name, func() error {
			if got := x.server.Load(); got != name {
				return fmt.Errorf("it reaches %v", got)
			}
			return nil
		})
	}
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
