package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

const (
	usualOperations = 150
	soakOperations  = 2000
	mostAtOnce      = 8
)

// TestEngineRandomOperationsLoseNothing does anything that people do, and restarts and
// kills whoever is there, until it finds a difference between Docker, Drawbridge and the
// kernel, or has done enough.
func TestEngineRandomOperationsLoseNothing(t *testing.T) {
	eachEngineWith(t, []string{"--live-restore"}, asItCame, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("bystander", "--network", "web", "-p", "8080:80", "--restart", "always")
		w := &walk{site: s, dice: s.dice(), networks: map[string]bool{}, containers: map[string][]string{}}
		defer w.tell()
		flow := s.Outside.Dial("tcp", "192.0.2.1:8080")
		stop := s.bystanderServes()
		begun, most := time.Now(), usualOperations
		if soak() {
			most = soakOperations
		}
		for len(w.done) < most {
			w.batch()
			if _, err := flow.Ask(hello.Patience); err != nil {
				s.t.Fatalf("a bystander's connection broke: %v", err)
			}
		}
		s.t.Logf("%d operations in %s, of which %d failed while somebody died; status named %d things that Docker had forgotten", len(w.done), time.Since(begun).Round(time.Second), w.failed, w.advice)
		restartDocker(s)
		s.agree("at last")
		stop()
	})
}

// walk is what there should be after what was done.
type walk struct {
	*site
	dice       *rand.Rand
	networks   map[string]bool
	containers map[string][]string // on which networks each is, the one that it was started on first

	done           []string
	failed, advice int
}

func (w *walk) tell() {
	if w.t.Failed() {
		w.t.Logf("operations:\n%s", strings.Join(w.done, "\n"))
	}
}

// An operation is a command and what it changes in a walk, or what befalls the services.
type operation struct {
	args   []string
	befall func()
	then   func()
	uses   []string // a network or container, which has one operation at a time
}

// batch does some operations at once, none of which depends on another. They must all
// succeed, unless one of them ends a service.
func (w *walk) batch() {
	w.t.Helper()
	var all []operation
	used := map[string]bool{}
	disturbed := w.dice.IntN(5) == 0
	if disturbed {
		all = append(all, w.disturbance())
	}
	for range 1 + w.dice.IntN(mostAtOnce) {
		o := w.operation()
		if o.args == nil || slices.ContainsFunc(o.uses, func(name string) bool { return used[name] }) {
			continue
		}
		for _, name := range o.uses {
			used[name] = true
		}
		all = append(all, o)
	}
	errs := w.run(all)
	for i, o := range all {
		switch {
		case errs[i] == nil && o.then != nil:
			o.then()
		case errs[i] != nil && !disturbed:
			w.t.Fatal(errs[i])
		case errs[i] != nil:
			w.failed++
		}
	}
	if disturbed {
		w.clean()
	}
	w.agreeBut("after a batch", w.failed)
	for name := range w.containers {
		if used[name] || disturbed {
			w.serves(name)
		}
	}
}

// run does operations at once. What befalls the services does so in the midst of the others.
func (w *walk) run(all []operation) []error {
	w.t.Helper()
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, o := range all {
		if o.args == nil {
			continue
		}
		w.done = append(w.done, strings.Join(o.args, " "))
		wait.Go(func() { _, errs[i] = w.TryDocker(o.args...) })
	}
	for _, o := range all {
		if o.befall != nil {
			o.befall()
		}
	}
	wait.Wait()
	return errs
}

func (w *walk) disturbance() operation {
	name := []string{"daemon killed", "daemon restarted", "engine killed", "engine restarted"}[w.dice.IntN(4)]
	w.done = append(w.done, name)
	return operation{befall: map[string]func(){
		"daemon killed":    func() { w.KillDaemon(); w.StartDaemon() },
		"daemon restarted": func() { w.StopDaemon(); w.StartDaemon() },
		"engine killed":    func() { w.KillDocker(); w.StartDocker() },
		"engine restarted": func() { restartDocker(w.site) },
	}[name]}
}

// operation draws one that can be done now, or none. A container is connected to networks
// with later names than that of its first, which stays its gateway: an engine that was
// restarted has forgotten how to change it.
func (w *walk) operation() operation {
	network := fmt.Sprintf("x%d", w.dice.IntN(5))
	n := w.dice.IntN(8)
	container := fmt.Sprintf("c%d", n)
	on, runs := w.containers[container]
	both := []string{network, container}
	switch kind := w.dice.IntN(6); {
	case !w.networks[network]:
		return operation{uses: []string{network}, then: func() { w.networks[network] = true }, args: []string{
			"network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--ipv6", network,
		}}
	case kind == 0 && w.idle(network):
		return operation{args: []string{"network", "rm", network}, uses: []string{network}, then: func() { delete(w.networks, network) }}
	case !runs:
		port := fmt.Sprint(9000 + n)
		return operation{uses: both, then: func() { w.containers[container] = []string{network} }, args: []string{
			"run", "-d", "--name", container, "--hostname", container, "--network", network, "-p", port + ":80", "-p", port + ":80/udp", lab.Image,
		}}
	case kind <= 2:
		return operation{args: []string{"rm", "-f", container}, uses: append(slices.Clone(on), container), then: func() { delete(w.containers, container) }}
	case network > on[0] && !slices.Contains(on, network):
		return operation{args: []string{"network", "connect", network, container}, uses: both, then: func() { w.containers[container] = append(on, network) }}
	case slices.Index(on, network) > 0:
		return operation{args: []string{"network", "disconnect", network, container}, uses: both, then: func() {
			w.containers[container] = slices.DeleteFunc(slices.Clone(on), func(n string) bool { return n == network })
		}}
	}
	return operation{}
}

// idle reports whether no container is on a network.
func (w *walk) idle(network string) bool {
	for _, on := range w.containers {
		if slices.Contains(on, network) {
			return false
		}
	}
	return true
}

// clean does what a person would after somebody died, and takes over what there is.
func (w *walk) clean() {
	w.t.Helper()
	w.comesBack("the bystander")
	for _, id := range strings.Fields(w.Docker("ps", "-aq", "--filter", "name=^c[0-9]$", "--filter", "status=created", "--filter", "status=exited", "--filter", "status=dead")) {
		_, _ = w.TryDocker("rm", "-f", id)
	}
	clear(w.networks)
	for name := range strings.Lines(w.Docker("network", "ls", "--format", "{{.Name}}", "--filter", "name=^x")) {
		w.networks[strings.TrimSpace(name)] = true
	}
	first := w.containers
	w.containers = map[string][]string{}
	for name := range strings.Lines(w.Docker("ps", "--format", "{{.Names}}", "--filter", "name=^c[0-9]$")) {
		w.containers[strings.TrimSpace(name)] = nil
	}
	for network := range w.networks {
		w.vacate(network) // a container that is restarted for it joins all that it was on
	}
	for _, network := range slices.Sorted(maps.Keys(w.networks)) {
		for _, name := range w.members(network) {
			if on, runs := w.containers[name]; runs {
				w.containers[name] = append(on, network)
			}
		}
	}
	for name, on := range w.containers {
		// One whose first network is not known any more is not worth a guess.
		if len(on) == 0 || first[name] != nil && on[0] != first[name][0] {
			w.Docker("rm", "-f", name)
			delete(w.containers, name)
		}
	}
	w.advice += w.forget()
}

// vacate has nobody on a network who is not there any more.
func (w *walk) vacate(network string) {
	w.t.Helper()
	for key, name := range w.members(network) {
		if _, runs := w.containers[name]; !runs {
			_, _ = w.TryDocker("network", "disconnect", "-f", network, name)
		} else if strings.HasPrefix(key, staleEndpoint) {
			w.unstale(network, name)
		}
	}
}

// serves shows that the container answers on its port.
func (w *walk) serves(name string) {
	w.t.Helper()
	port := "900" + strings.TrimPrefix(name, "c")
	lab.Until(w.t, name+" serves", func() error {
		answer, err := w.Outside.Ask("tcp", "192.0.2.1:"+port)
		if err == nil && answer.Server != name {
			err = errors.New(answer.Server + " answers")
		}
		return err
	})
}
