package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/firewall/firewalld"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// mendsAfterReloads is about what firewalld forgets when it reloads: until our bridges are
// back in their zone, it rejects what containers send and are sent.
func (s *site) mendsAfterReloads() {
	s.t.Helper()
	c1, c2 := s.Inside("c1"), s.Inside("c2")
	questions := map[string]lab.Question{}
	for name, f := range both {
		questions["from outside by "+name] = answers(s.Outside, join(f.host(s), "8080"), "c1")
		questions["to outside by "+name] = answers(c1, join(f.internet, "80"), "outside")
		questions["beside by "+name] = answers(c2, join(f.address(s, "c1", "web"), "80"), "c1")
	}
	probes := lab.Probe(s.t, answers(s.Neighbour, join(s.Outside.Addr.String(), "80"), "outside"), questions, nil)
	probes.Steady("before", time.Now(), healsWithin)
	reloaded := reloads(s.t, s.Outer("/run/dbus/system_bus_socket"))
	<-reloaded
	probes.Forget()
	s.FirewallCmd("--reload")
	s.t.Logf("firewall-cmd --reload: %s", probes.Steady("firewall-cmd --reload", <-reloaded, healsWithin))
	probes.Stop()
	s.dockerFollows()
}

// reloads tells when firewalld says that it has reloaded, and first that somebody listens.
func reloads(t *testing.T, bus string) <-chan time.Time {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	times, done := make(chan time.Time, 10), make(chan error, 1)
	go func() {
		done <- firewalld.New(bus, nil).Watch(ctx, func() { times <- time.Now() })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return times
}
