package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/firewall/firewalld"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// mendsAfterReloads is about what firewalld forgets when it reloads: until our bridges are
// back in their zone, it rejects what containers send and are sent. The engine has no part
// in what becomes of our own rules.
func (s *site) mendsAfterReloads() {
	s.t.Helper()
	s.mendsAfterReload(healsWithin)
	if s.Version() != lab.Newest {
		return
	}
	s.serveWith("--firewall=iptables")
	s.guardedBy(ipt, "as told")
	s.mendsAfterReload(pollsWithin)
	s.serveWith()
	s.guardedBy(nft, "auto")
}

func (s *site) mendsAfterReload(limit time.Duration) {
	s.t.Helper()
	c1, c2, d1 := s.Inside("c1"), s.Inside("c2"), s.Inside("d1")
	questions, forbidden := map[string]lab.Question{}, map[string]lab.Question{}
	for name, f := range both {
		own := join(f.address(s, "c1", "web"), "80")
		questions["from outside by "+name] = answers(s.Outside, join(f.host(s), "8080"), "c1")
		questions["to outside by "+name] = answers(c1, join(f.internet, "80"), "outside")
		questions["beside by "+name] = answers(c2, own, "c1")
		forbidden["from another network by "+name] = answers(d1, own, "c1")
	}
	zones := s.zones()
	probes := lab.Probe(s.t, answers(s.Neighbour, join(s.Outside.Addr.String(), "80"), "outside"), questions, forbidden)
	probes.Steady("before", time.Now(), limit)
	reloaded := reloads(s.t, s.Outer("/run/dbus/system_bus_socket"))
	<-reloaded
	probes.Forget()
	s.FirewallCmd("--reload")
	gap := probes.Steady("firewall-cmd --reload", <-reloaded, limit)
	s.t.Logf("firewall-cmd --reload: %s", gap)
	if gap.Passed > 0 {
		s.t.Errorf("firewall-cmd --reload: %s, and our rules are not firewalld's", gap)
	}
	probes.Stop()
	s.dockerFollows()
	if diff := cmp.Diff(zones, s.zones()); diff != "" {
		s.t.Errorf("zones before firewalld reloaded and after (-before +after):\n%s", diff)
	}
}

// zones are firewalld's, with what is in each in order.
func (s *site) zones() []string {
	s.t.Helper()
	var all []string
	for line := range strings.Lines(s.FirewallCmd("--list-all-zones")) {
		words := strings.Fields(line)
		slices.Sort(words)
		all = append(all, strings.Join(words, " "))
	}
	return all
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
