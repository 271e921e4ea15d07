package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// inNoOther leaves the engine without docker0, whose subnet container d has on a network
// of its own.
const inNoOther = "--bridge=none"

// TestEngineTheTableHolds asks the questions of the reachability table on
// networks of ours, and on Docker's own without us. Ours have the outcomes of
// plan/testdata/reach, Docker's those that are noted in testdata/bridge, which -update notes
// anew; docs/parity.md is made of both.
func TestEngineTheTableHolds(t *testing.T) {
	eachEngineWith(t, []string{inNoOther}, warmUpIPv6, func(s *site) {
		w := s.reachable()
		w.answersAsNoted(s.Version())
		if s.Version() == lab.Oldest {
			// As on a host that forwarded before the engine came.
			found4, found6 := policies(s)
			s.policy("ACCEPT", "ACCEPT")
			w.answersAsNoted(forwarded, "nat")
			s.policy(found4, found6)
		}
	})
}

// TestEngineTheTableHoldsBesideNftables is about the newest engine's other backend, which
// turns forwarding on for nobody. A few kinds of network are enough, but for a soak.
func TestEngineTheTableHoldsBesideNftables(t *testing.T) {
	forwards := func(s *site) {
		s.Host.Set("net/ipv4/ip_forward", "1")
		s.Host.Set("net/ipv6/conf/all/forwarding", "1")
		warmUpIPv6(s)
	}
	eachEngineWith(t, []string{inNoOther, "--ip-forward=false", "--firewall-backend=nftables"}, forwards, func(s *site) {
		s.reachable().answersAsNoted(byNftables, "nat", "nat, not masqueraded", "nat, apart", "nat, internal", "nat and routed")
	})
}

// reachability is the world of the table on a real host: the machines, of which a, b
// and o are made anew for each kind of network.
type reachability struct {
	*site
	driver   string // whose networks a, b and o are on
	engine   reach.Engine
	machines map[string]*lab.Host
}

// reachable makes the machines that are the same for all kinds of network.
func (s *site) reachable() *reachability {
	s.t.Helper()
	for _, to := range []string{"172.30.0.0/16", "172.17.0.0/16", "fd00:30::/32", "fd17::/64"} {
		s.Neighbour.Route(netip.MustParsePrefix(to), s.Host)
	}
	w := &reachability{site: s, driver: "bridge", machines: map[string]*lab.Host{
		reach.Host: s.Host, reach.Outside: s.Outside, reach.Neighbour: s.Neighbour,
	}}
	w.engine = reach.Engines()[1]
	if s.Version() == lab.Newest {
		w.engine = reach.Engines()[2]
	}
	service := fmt.Sprint(":", reach.Service)
	s.Outside.Serve("tcp", service)
	s.Neighbour.Serve("tcp", service)
	// What runs in the host's own network is the host.
	s.Docker("run", "-d", "--name", "of-host", "--hostname", "host", "--network", "host", lab.Image, "peer", "serve", "tcp"+service)
	s.Serves("of-host")
	w.create("docker", []string{"172.17.0.0/16", "fd17::/64"}, "-o", bridgeKey+"name=docker0")
	w.run("docker", reach.D)
	return w
}

// create creates a network.
func (w *reachability) create(name string, subnets []string, options ...string) {
	w.t.Helper()
	words := []string{"network", "create", "-d", w.driver, "--ipv6", "--subnet", subnets[0], "--subnet", subnets[1]}
	if w.driver != "bridge" {
		words = append(words, "--ipam-driver", w.driver)
	}
	w.Docker(append(append(words, options...), name)...)
}

// run starts containers that are some of the machines. Until an address is known to be
// nobody else's, nothing leaves with it.
func (w *reachability) run(network string, names ...string) {
	w.t.Helper()
	for _, name := range names {
		words := append([]string{"run", "-d", "--name", "of-" + name, "--hostname", name, "--network", network}, reach.Run(name)...)
		w.Docker(append(words, lab.Image, "peer", "serve", fmt.Sprint("tcp:", reach.Published), fmt.Sprint("tcp:", reach.Unpublished))...)
	}
	for _, name := range names {
		w.Serves("of-" + name)
		w.machines[name] = w.Inside("of-" + name)
		lab.Until(w.t, name+" has its addresses", func() error {
			if out := w.machines[name].Run("ip", "-6", "addr", "show", "tentative"); out != "" {
				return fmt.Errorf("not yet: %s", out)
			}
			return nil
		})
	}
}

// remove ends some of the machines, and their network with them.
func (w *reachability) remove(network string, names ...string) {
	w.t.Helper()
	words := []string{"rm", "-f"}
	for _, name := range names {
		words = append(words, "of-"+name)
	}
	w.Docker(words...)
	w.Docker("network", "rm", network)
}

// answersAsNoted asks the questions of kinds of network, of ours and of Docker's: of these
// or, if none is named, of so many that each outcome is among them; in a soak of all.
func (w *reachability) answersAsNoted(engine string, names ...string) {
	w.t.Helper()
	ours, err := reach.Read("../../plan/testdata/reach")
	if err != nil {
		w.t.Fatal(err)
	}
	dockers := readTables(w.t, engine)
	table := func(k reach.Kind) string { return beside(engine, ours[reach.Of(k, w.engine)]) }
	if golden.Update() {
		w.note(engine, dockers, names)
		return
	}
	w.each("drawbridge", choose(names, table), func(k reach.Kind) {
		w.settled()
		w.agrees(k, table(k))
	})
	w.StopDaemon()
	defer w.StartDaemon()
	w.each("bridge", choose(names, func(k reach.Kind) string { return table(k) + dockers[k.Name] }), func(k reach.Kind) {
		w.agrees(k, dockers[k.Name])
	})
}

// note writes down what Docker's own networks answer.
func (w *reachability) note(engine string, dockers tables, names []string) {
	w.t.Helper()
	w.StopDaemon()
	defer w.StartDaemon()
	w.each("bridge", choose(names, func(k reach.Kind) string { return k.Name }), func(k reach.Kind) {
		dockers[k.Name] = k.Table(w.judge(hello.Patience))
		dockers.write(w.t, engine)
	})
}

// choose are the kinds of these names, or one for each outcome.
func choose(names []string, outcome func(reach.Kind) string) []reach.Kind {
	seen := map[string]bool{}
	return slices.DeleteFunc(reach.Kinds(), func(k reach.Kind) bool {
		if len(names) > 0 {
			return !slices.Contains(names, k.Name) && !soak()
		}
		again := seen[outcome(k)]
		seen[outcome(k)] = true
		return again && !soak()
	})
}

// soak says that no time is to be spared.
func soak() bool { return os.Getenv("DRAWBRIDGE_SOAK") != "" }

// each makes the networks of one kind after the other. Their addresses are the same.
func (w *reachability) each(driver string, kinds []reach.Kind, ask func(reach.Kind)) {
	w.t.Helper()
	w.driver = driver
	if driver == "bridge" {
		kinds = slices.DeleteFunc(kinds, func(k reach.Kind) bool { return !shows(w.Version(), k) })
	}
	var options []string // of the network that o is on
	for i, k := range kinds {
		if other := reach.Create(k.Other); i == 0 || !slices.Equal(other, options) {
			if i > 0 {
				w.remove("other", reach.O)
			}
			w.create("other", []string{"172.30.2.0/24", "fd00:30:2::/64"}, other...)
			w.run("other", reach.O)
			options = other
		}
		w.create("web", []string{"172.30.1.0/24", "fd00:30:1::/64"}, reach.Create(k.Network)...)
		w.run("web", reach.A, reach.B)
		w.acquaint(k)
		ask(k)
		w.remove("web", reach.A, reach.B)
	}
	if len(kinds) > 0 {
		w.remove("other", reach.O)
	}
}

// acquaint has only the firewall between a and b. Where they are kept apart they could
// not find each other's MAC, and what they ask would never be sent; in an internal
// network they know no gateway, until they add one.
func (w *reachability) acquaint(k reach.Kind) {
	w.t.Helper()
	for name, peer := range map[string]string{reach.A: reach.B, reach.B: reach.A} {
		link := strings.Fields(w.machines[peer].Run("ip", "-o", "link", "show", "dev", "eth0"))
		mac := link[slices.Index(link, "link/ether")+1]
		i := slices.IndexFunc(reach.Machines(), func(m reach.Machine) bool { return m.Name == peer })
		w.machines[name].Run("ip", "neigh", "replace", reach.Machines()[i].IPv6.String(), "lladdr", mac, "dev", "eth0", "nud", "permanent")
		if k.Network.Internal && k.Network.Mode4 != spec.Isolated {
			w.machines[name].Run("ip", "route", "replace", "default", "via", "172.30.1.1")
			w.machines[name].Run("ip", "route", "replace", "default", "via", "fd00:30:1::1")
		}
	}
}

// agrees asks, and asks once more with patience what came out otherwise: on a busy
// machine an answer may take its time.
func (w *reachability) agrees(k reach.Kind, want string) {
	w.t.Helper()
	if got := k.Table(w.judge(hello.Impatience)); got == want {
		return
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(k.Table(w.judge(hello.Patience)), "\n")); diff != "" {
		w.t.Errorf("%s, driver %s (-want +got):\n%s", k.Name, w.driver, diff)
	}
}

// judge asks with packets.
func (w *reachability) judge(wait time.Duration) reach.Judge {
	return func(q reach.Question) reach.Outcome {
		client := w.machines[q.Client.Name]
		if q.Proto == plan.Ping {
			return reach.Outcome{Verdict: hello.Judge(client.Ping(q.To.Addr(), wait))}
		}
		answer, err := client.AskFor("tcp", q.To.String(), wait)
		return reach.Outcome{Verdict: hello.Judge(err), Server: answer.Server, Client: answer.Client.Addr().Unmap()}
	}
}
