package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineNobodyWaitsForAnotherNetworksLinks holds every change of one network's links for
// five seconds, and then every mend of them, and has containers start and end on another one
// meanwhile.
func TestEngineNobodyWaitsForAnotherNetworksLinks(t *testing.T) {
	eachEngineAfter(t, func(s *site) { s.Failpoints() }, func(s *site) {
		f := s.Failpoints()
		s.network("slow", "--subnet", "172.30.1.0/24")
		s.network("quick", "--subnet", "172.30.2.0/24")
		startAndEnd := func() (answers time.Duration) {
			heard := len(s.DaemonLog())
			s.Run("c1", "--network", "quick", "-p", "8081:80")
			s.Docker("rm", "-f", "c1")
			return took(t, s.DaemonLog()[heard:], s.inspect("{{.Id}}", "quick"))
		}
		usual := max(startAndEnd(), startAndEnd())

		slow := s.inspect("{{.Id}}", "slow")
		f.Order("hold 0 ^link .* of " + slow)
		started := make(chan error, 1)
		go func() {
			_, err := s.TryDocker("run", "-d", "--name", "held", "--network", "slow", "-p", "8080:80", lab.Image)
			started <- err
		}()
		f.Await(1)
		five := time.After(5 * time.Second)
		// Whoever waited would do so each time; a busy machine is slow now and then.
		held := startAndEnd()
		for range 2 {
			held = min(held, startAndEnd())
		}
		<-five
		select {
		case err := <-started:
			t.Errorf("the network that is held was not: %v", err)
		default:
		}
		f.Withdraw()
		if err := <-started; err != nil {
			t.Error(err)
		}
		s.Serves("held")
		if _, err := s.Outside.Ask("tcp", "192.0.2.1:8080"); err != nil {
			t.Errorf("the container that was held: %v", err)
		}

		f.Order("hold 0 ^link .* of " + slow)
		bridge := s.bridge("slow")
		s.Host.Run("ip", "link", "set", bridge, "down")
		f.Await(1)
		mended := startAndEnd() // whoever waited would do so for ever
		if out := s.Host.Run("ip", "-br", "link", "show", bridge); strings.Contains(out, "LOWER_UP") {
			t.Errorf("the mend was not held: %s", out)
		}
		f.Withdraw()
		lab.Until(t, "the network to be mended", func() error {
			_, err := s.Outside.Ask("tcp", "192.0.2.1:8080")
			return err
		})
		t.Logf("answers to all calls about one container took %s, %s while another network was held, and %s while that was being mended", usual, held, mended)
		if held > usual+4*50*time.Millisecond {
			t.Errorf("calls waited for another network: %s, usually %s", held, usual)
		}
	})
}

// took is how long the answers took in a part of the daemon's log that are about a network.
func took(t *testing.T, log, network string) (all time.Duration) {
	t.Helper()
	field := regexp.MustCompile(` took="?([^ "\n]+)`)
	for line := range strings.Lines(log) {
		if !strings.Contains(line, network) {
			continue
		}
		if m := field.FindStringSubmatch(line); m != nil {
			d, err := time.ParseDuration(m[1])
			if err != nil {
				t.Fatal(err)
			}
			all += d
		}
	}
	if all == 0 {
		t.Fatalf("no answer about network %s: %s", network, log)
	}
	return all
}
