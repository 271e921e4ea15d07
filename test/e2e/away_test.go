package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineNothingIsLostWhileTheDaemonIsAway in whatever way it went, while the kernel
// serves alone: not a byte of what is established, no new connection, and none of what
// containers had that were removed meanwhile. An engine gives up after a while and does
// not say so again.
func TestEngineNothingIsLostWhileTheDaemonIsAway(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.tap()
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("c1", "--network", "web", "-p", "8080:80/tcp", "-p", "8080:80/udp", "-p", "8081:81")
		s.Run("c2", "--network", "web")
		streams := s.streams()
		for _, absence := range []struct {
			ipam  string
			begin func()
			end   func()
		}{
			{"drawbridge", s.KillDaemon, func() { s.StartDaemon() }},
			{"default", s.StopDaemon, func() { s.StartDaemon() }},
			{"drawbridge", s.StopDaemon, func() { s.Failpoints(); s.StartDaemon() }}, // which is another build
		} {
			s.ipam = absence.ipam
			s.isAway(absence.begin, absence.end)
		}
		var silence time.Duration
		for _, stream := range streams {
			silence = max(silence, stream.Stop())
		}
		s.t.Logf("the longest silence of %d streams was %v", len(streams), silence.Round(time.Millisecond))
	})
}

// streams are established connections of all kinds that no proxy is needed for.
func (s *site) streams() []*lab.Stream {
	s.t.Helper()
	c1, c2 := s.Inside("c1"), s.Inside("c2")
	c1.EchoStreams(81)
	s.Outside.EchoStreams(81)
	streams := []*lab.Stream{s.Host.Stream("from the host by 127.0.0.1", "127.0.0.1:8081")}
	for _, at := range []struct{ host, c1, internet string }{
		{s.Host.Addr.String(), s.address("c1", "web"), lab.Internet},
		{s.Host.Addr6.String(), s.address6("c1", "web"), lab.Internet6},
	} {
		streams = append(
			streams,
			s.Outside.Stream("from outside by the published port of "+at.host, join(at.host, "8081")),
			s.Host.Stream("from the host by the published port of "+at.host, join(at.host, "8081")),
			c2.Stream("from a container by the published port of "+at.host, join(at.host, "8081")),
			c2.Stream("from a container to "+at.c1, join(at.c1, "81")),
			c2.Stream("from a container to the outside's "+at.internet, join(at.internet, "81")),
		)
	}
	return streams
}

// isAway has the daemon away for a minute, and in make test for long enough to remove what
// is to be removed.
func (s *site) isAway(begin, end func()) {
	s.t.Helper()
	absence := 3 * time.Second
	if soak() {
		absence = time.Minute
	}
	s.network("work", "--subnet", "172.30.3.0/24")
	before := s.Host.Snapshot()
	ask := func(name, address string, port string) {
		s.Run(name, "--network", "work", "--ip", address, "-p", port+":80")
	}
	s.Run("any", "--network", "work", "-p", "8082:80")
	ask("named", "172.30.3.77", "8083")
	s.Docker("network", "connect", "work", "c2")

	begin()
	over := time.After(absence)
	stop := s.beginsConnections()
	s.Docker("rm", "-f", "any")
	s.Docker("rm", "-f", "named")
	s.Docker("network", "disconnect", "work", "c2")
	<-over
	end()
	stop()

	lab.Until(s.t, "nothing is left of what was removed", func() error {
		if diff := before.Diff(s.Host.Snapshot()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	s.knowsEndpoints(2)
	ask("again", "172.30.3.77", "8083")
	s.Run("another", "--network", "work", "-p", "8082:80")
	s.Outside.MustReach("tcp", "192.0.2.1:8083", "again")
	s.Outside.MustReach("tcp", "192.0.2.1:8082", "another")
	s.Docker("network", "connect", "work", "c2")
	s.MustReach("c2", "tcp", "again:80", "again")
	s.MustReach("again", "tcp", "c2:80", "c2")
	s.showsPorts("again", "0.0.0.0:8083->80/tcp")
	s.Docker("network", "disconnect", "work", "c2")
	s.Docker("rm", "-f", "again", "another")
	s.Docker("network", "rm", "work")
}

// beginsConnections has new ones begin all the time until stop, one after the other by each
// way for which no proxy is needed.
func (s *site) beginsConnections() (stop func()) {
	c2 := s.Inside("c2")
	ways := []func() (hello.Answer, error){
		func() (hello.Answer, error) { return s.Outside.Ask("tcp", "192.0.2.1:8080") },
		func() (hello.Answer, error) { return s.Outside.Ask("tcp", "[2001:db8:1::1]:8080") },
		func() (hello.Answer, error) { return s.Outside.Ask("udp", "192.0.2.1:8080") },
		func() (hello.Answer, error) { return s.Host.Ask("tcp", "192.0.2.1:8080") },
		func() (hello.Answer, error) { return s.Host.Ask("tcp", "[2001:db8:1::1]:8080") },
		func() (hello.Answer, error) { return s.Host.Ask("tcp", "127.0.0.1:8080") },
		func() (hello.Answer, error) { return c2.Ask("tcp", "192.0.2.1:8080") },
		func() (hello.Answer, error) { return c2.Ask("tcp", join(lab.Internet, "80")) },
		func() (hello.Answer, error) { return c2.Ask("udp", join(lab.Internet6, "80")) },
	}
	next := 0
	return lab.Steadily(s.t, "new connections", func() error {
		way := next % len(ways)
		next++
		if _, err := ways[way](); err != nil {
			return fmt.Errorf("way %d: %w", way, err)
		}
		return nil
	})
}

// TestEngineForgetsNothingOfADaemonThatIsSoonBack is about a daemon that is restarted
// while containers end: the engine has found nobody, and asks again for a while.
func TestEngineForgetsNothingOfADaemonThatIsSoonBack(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80", "--ip", "172.30.1.77")
		s.KillDaemon()
		heard := len(s.DockerLog())
		removed := make(chan error, 1)
		go func() {
			_, err := s.TryDocker("rm", "-f", "c1")
			removed <- err
		}()
		lab.Until(s.t, "the engine finds nobody", func() error {
			if !strings.Contains(s.DockerLog()[heard:], "Unable to connect to plugin") {
				return errors.New("it has not asked")
			}
			return nil
		})
		s.StartDaemon()
		if err := <-removed; err != nil {
			s.t.Fatal(err)
		}
		s.knowsEndpoints(0)
		s.Run("c1", "--network", "web", "-p", "8080:80", "--ip", "172.30.1.77")
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
	})
}

func TestEngineRemovesNetworksWhileNobodyListens(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.tap()
		for _, s.ipam = range ipams {
			s.network("web", "--subnet", "172.30.1.0/24")
			s.network("other", "--subnet", "172.30.2.0/24")
			s.Run("c1", "--network", "web", "-p", "8080:80")
			s.Run("c2", "--network", "other", "-p", "8081:80")
			s.KillDaemon()
			s.Docker("rm", "-f", "c1")
			s.Docker("network", "rm", "web")
			s.StartDaemon()
			if _, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", s.ipam, "--subnet", "172.30.1.0/24", "again"); err == nil || !strings.Contains(err.Error(), "drawbridge status") {
				s.t.Errorf("a subnet of a network that Docker has forgotten: want an error that names drawbridge status, got %v", err)
			}
			s.removeForgotten(1)
			s.knowsEndpoints(1)
			s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
			s.network("web", "--subnet", "172.30.1.0/24")
			s.Run("c1", "--network", "web", "-p", "8080:80")
			s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
			s.Outside.MustReach("tcp", "192.0.2.1:8081", "c2")
			s.removeAll()
		}
	})
}

// TestEngineRemovesNetworksBeforeItKnowsUs is about an engine that has had no need of us
// since its start and does not find us: it says so, shows the network no more, and
// tells us when it starts the next time.
func TestEngineRemovesNetworksBeforeItKnowsUs(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.ipam = "default"
		s.network("web", "--subnet", "172.30.1.0/24")
		s.KillDaemon()
		restartDocker(s)
		if out, err := s.TryDocker("network", "rm", "web"); err == nil {
			s.t.Errorf("the engine removes a network of a driver that it does not find: %s", out)
		}
		s.StartDaemon()
		restartDocker(s)
		s.hasNothing()
	})
}
