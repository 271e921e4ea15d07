package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// twin is one of two networks with the same options, ours and one of Docker's own. Its
// first container publishes port 80, and serves 81 as well.
type twin struct {
	*site
	name, driver   string
	ipv4, ipv6     string // subnets
	hostPort       string
	first, another string // containers
}

func (w twin) create(options []string) {
	w.t.Helper()
	args := []string{"network", "create", "-d", w.driver, "--ipv6", "--subnet", w.ipv4, "--subnet", w.ipv6}
	for _, o := range options {
		if strings.HasPrefix(o, "--") {
			args = append(args, o)
		} else {
			args = append(args, "-o", o)
		}
	}
	w.Docker(append(args, w.name)...)
	w.Run(w.first, "--network", w.name, "-p", w.hostPort+":80")
	w.Run(w.another, "--network", w.name)
	w.serves81(w.first)
}

func (w twin) remove() {
	w.t.Helper()
	w.Docker("rm", "-f", w.first, w.another)
	w.Docker("network", "rm", w.name)
}

// answers are those to all questions, in both families and at the same time: most of
// it is waiting for silence.
func (w twin) answers() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for name, f := range both {
		for question, ask := range w.questions(f) {
			wait.Go(func() {
				answer := ask()
				mu.Lock()
				defer mu.Unlock()
				all[name+", "+question] = answer
			})
		}
	}
	wait.Wait()
	return all
}

// questions are put by whoever there is to the first container, in each way there is, and
// by that to the world.
func (w twin) questions(f family) map[string]func() string {
	w.t.Helper()
	own := f.address(w.site, w.first, w.name)
	all := map[string]func() string{
		"the world sees":    func() string { return w.shows(own, join(f.internet, "80")) },
		"ping by a peer":    func() string { return w.pinged(w.another, own) },
		"published, itself": func() string { return w.asked(w.first, join(f.host(w.site), w.hostPort)) },
		"127.0.0.1":         func() string { return w.fate(w.Host.Ask("tcp", join("127.0.0.1", w.hostPort))) },
	}
	ways := map[string]string{"port 80": join(own, "80"), "port 81": join(own, "81"), "published": join(f.host(w.site), w.hostPort)}
	for who, h := range map[string]*lab.Host{"the host": w.Host, "a trusted machine": w.Neighbour, "outside": w.Outside} {
		all["ping by "+who] = func() string { return reached(h.Ping(netip.MustParseAddr(own), hello.Patience)) }
		for way, at := range ways {
			all[way+" by "+who] = func() string { return w.fate(h.Ask("tcp", at)) }
		}
	}
	for way, at := range ways {
		all[way+" by another network"] = func() string { return w.asked("k1", at) }
		all[way+" by a peer"] = func() string { return w.asked(w.another, at) }
	}
	return all
}

// asked is the fate of a container's question.
func (w twin) asked(by, at string) string {
	got, err := w.Ask(by, "tcp", at)
	for _, v := range []hello.Verdict{hello.Drop, hello.Refuse} {
		if err != nil && strings.HasPrefix(err.Error(), string(v)+":") {
			return string(v)
		}
	}
	return w.fate(got, err)
}

func (w twin) fate(got hello.Answer, err error) string {
	if err == nil && got.Server != w.first {
		return "answer of " + got.Server
	}
	return string(hello.Judge(err))
}

func (w twin) shows(own, at string) string {
	got, err := w.Ask(w.first, "tcp", at)
	switch seen := got.Client.Addr().String(); {
	case err != nil:
		return "nothing"
	case seen == own:
		return "its own address"
	default:
		return seen
	}
}

func (w twin) pinged(by, address string) string {
	_, err := w.TryDocker("exec", by, "ping", "-c", "1", "-W", "5", address)
	return reached(err)
}

func reached(err error) string {
	if err == nil {
		return "answer"
	}
	return "silence"
}

// TestEngineOptionsTogetherDoWhatTheyDoOnDockersBridge lets Docker's own network say what
// is right.
func TestEngineOptionsTogetherDoWhatTheyDoOnDockersBridge(t *testing.T) {
	const (
		apart    = bridgeKey + "enable_icc=false"
		trusted  = bridgeKey + "trusted_host_interfaces=wire0"
		loopback = bridgeKey + "host_binding_ipv4=127.0.0.1"
		mode4    = bridgeKey + "gateway_mode_ipv4="
		mode6    = bridgeKey + "gateway_mode_ipv6="
	)
	// Docker lets ping pass wherever it is routed to, even back to whoever is kept apart.
	// And it drops answers that come to a container's own address from outside.
	const ping, answered = "ping by a peer", "the world sees"
	rows := []struct {
		options []string
		except  string
	}{
		{[]string{apart, mode4 + "routed", mode6 + "nat-unprotected"}, ping},
		{[]string{mode4 + "nat-unprotected", mode6 + "routed"}, ""},
		{[]string{"--internal", apart, mode4 + "nat-unprotected", mode6 + "routed"}, ""},
		{[]string{loopback, mode4 + "routed", mode6 + "routed"}, ""},
		{[]string{loopback, trusted, apart}, ""},
		{[]string{bridgeKey + "enable_ip_masquerade=false", mode6 + "nat-unprotected"}, answered},
		{[]string{"com.docker.network.host_ipv4=192.0.2.77", "com.docker.network.host_ipv6=2001:db8:1::77", mode6 + "routed"}, ""},
		{[]string{bridgeKey + "inhibit_ipv4=true", mode6 + "routed"}, ""},
	}
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.wire0("172.30.0.0/15", "fd00:30::/31")
		s.Host.Run("ip", "addr", "add", "192.0.2.77/24", "dev", "eth0")
		s.Host.Run("ip", "addr", "add", "2001:db8:1::77/64", "dev", "eth0", "nodad", "preferred_lft", "0")
		found := s.bridgedFrames()
		s.dockersOwn("docker")
		s.Run("k1", "--network", "docker")
		ours := twin{s, "ours", "drawbridge", "172.30.1.0/24", "fd00:30:1::/64", "8080", "a1", "a2"}
		dockers := twin{s, "dockers", "bridge", "172.31.1.0/24", "fd00:31:1::/64", "8081", "b1", "b2"}
		for _, row := range rows {
			ours.create(row.options)
			dockers.create(row.options)
			s.settled()
			var wait sync.WaitGroup
			var got, want map[string]string
			wait.Go(func() { got = ours.answers() })
			wait.Go(func() { want = dockers.answers() })
			wait.Wait()
			s.alike(row.options, got, want, row.except)
			ours.remove()
			dockers.remove()
		}
		s.showBridgedFrames(found)
		s.Host.Run("ip", "addr", "del", "192.0.2.77/24", "dev", "eth0")
		s.Host.Run("ip", "addr", "del", "2001:db8:1::77/64", "dev", "eth0")
		s.Host.Run("ip", "link", "del", "wire0")
	})
}

// alike compares answers. What differs must do so in one family at least, lest the
// exception outlive it.
func (s *site) alike(options []string, got, want map[string]string, except string) {
	s.t.Helper()
	var differ []string
	for question := range want {
		if got[question] != want[question] {
			differ = append(differ, question)
		}
	}
	known := func(question string) bool { return except != "" && strings.HasSuffix(question, ", "+except) }
	if except != "" && !slices.ContainsFunc(differ, known) {
		s.t.Errorf("%q: %s is no exception", options, except)
	}
	for _, question := range slices.Sorted(slices.Values(differ)) {
		if !known(question) {
			s.t.Errorf("%q: %s: %s, on Docker's own network %s", options, question, got[question], want[question])
		}
	}
}
