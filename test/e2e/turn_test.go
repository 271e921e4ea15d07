package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineNobodyWaitsForAnotherNetworksLinks holds every change of one network's links for
// five seconds, and then every mend of them, and has a container on another one end and start
// meanwhile.
func TestEngineNobodyWaitsForAnotherNetworksLinks(t *testing.T) {
	eachEngineAfter(t, func(s *site) { s.Failpoints() }, func(s *site) {
		f := s.Failpoints()
		s.network("slow", "--subnet", "172.30.1.0/24")
		s.network("quick", "--subnet", "172.30.2.0/24")
		s.Run("c1", "--network", "quick", "-p", "8081:80")
		b := bystander{site: s, network: s.inspect("{{.Id}}", "quick"), usual: quickest{}}
		b.restarts(b.usual)
		b.restarts(b.usual)

		hold := "hold 0 ^link .* of " + s.inspect("{{.Id}}", "slow")
		f.Order(hold)
		started := make(chan error, 1)
		go func() {
			_, err := s.TryDocker("run", "-d", "--name", "held", "--network", "slow", "-p", "8080:80", lab.Image)
			started <- err
		}()
		f.Await(1)
		five := time.After(5 * time.Second)
		b.isServedMeanwhile("a change is held")
		<-five
		if len(started) > 0 {
			t.Error("the network that is held was not")
		}
		f.Withdraw()
		if err := <-started; err != nil {
			t.Error(err)
		}
		s.Serves("held")
		if _, err := s.Outside.Ask("tcp", "192.0.2.1:8080"); err != nil {
			t.Errorf("the container that was held: %v", err)
		}
		b.restarts(b.usual)

		f.Order(hold)
		bridge := s.bridge("slow")
		s.Host.Run("ip", "link", "set", bridge, "down")
		f.Await(1)
		b.isServedMeanwhile("a mend is held")
		if out := s.Host.Run("ip", "-br", "link", "show", bridge); strings.Contains(out, "LOWER_UP") {
			t.Errorf("the mend was not held: %s", out)
		}
		f.Withdraw()
		lab.Until(t, "the network to be mended", func() error {
			_, err := s.Outside.Ask("tcp", "192.0.2.1:8080")
			return err
		})
	})
}

// bystander is the container c1, whose network nobody holds.
type bystander struct {
	*site
	network string   // its ID
	usual   quickest // while nobody holds any
}

// quickest are the shortest times that calls took, by method. Whoever waits for somebody else
// does so each time; a machine that is busy makes a call late now and then.
type quickest map[string]time.Duration

var answered = regexp.MustCompile(` method=(\S+) .* took="?([^ "\n]+)`)

// restarts has the container end and start, and adds how long the calls about it took.
func (b *bystander) restarts(q quickest) {
	b.t.Helper()
	heard := len(b.DaemonLog())
	b.Docker("restart", "-t", "0", "c1")
	calls := 0
	for line := range strings.Lines(b.DaemonLog()[heard:]) {
		call := answered.FindStringSubmatch(line)
		if call == nil || !strings.Contains(line, b.network) {
			continue
		}
		took, err := time.ParseDuration(call[2])
		if err != nil {
			b.t.Fatal(err)
		}
		if before, ok := q[call[1]]; !ok || took < before {
			q[call[1]] = took
		}
		calls++
	}
	if calls == 0 {
		b.t.Fatalf("no answer about network %s: %s", b.network, b.DaemonLog()[heard:])
	}
}

// isServedMeanwhile restarts the container until each call was as quick as usual once, or it
// is clear that they are not. What is held is set free for one that waits for it.
func (b *bystander) isServedMeanwhile(what string) {
	b.t.Helper()
	// limit is four times what is promised.
	const limit, restarts, patience = 4 * 50 * time.Millisecond, 10, 20 * time.Second
	held := quickest{}
	for range restarts {
		free := time.AfterFunc(patience, b.Failpoints().Withdraw)
		b.restarts(held)
		if !free.Stop() {
			b.t.Errorf("while %s: somebody waited for it for %s", what, patience)
			return
		}
		if _, longer := held.beyond(b.usual); longer <= limit {
			break
		}
	}
	call, longer := held.beyond(b.usual)
	b.t.Logf("while %s: calls took %s in all, %s as usual; %s took longest beyond what is usual, %s", what, held.sum(), b.usual.sum(), call, longer)
	if longer > limit {
		b.t.Errorf("while %s: %s takes %s, usually %s", what, call, held[call], b.usual[call])
	}
}

// beyond is the call that took longest beyond what is usual.
func (q quickest) beyond(usual quickest) (call string, longer time.Duration) {
	for method, took := range q {
		if call == "" || took-usual[method] > longer {
			call, longer = method, took-usual[method]
		}
	}
	return call, longer
}

func (q quickest) sum() (all time.Duration) {
	for _, took := range q {
		all += took
	}
	return all
}
