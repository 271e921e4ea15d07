package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"

	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Who asks for published ports.
const (
	aMachine   = "another machine"
	aStranger  = "a machine with a link-local address alone"
	theHost    = "the host, or a container in its network"
	aPeer      = "the container itself, or one beside it"
	another    = "a container on another network"
	ofDockers  = "a container on a network of Docker's"
	anInternal = "a container on an internal network"
)

// By which addresses of the host.
const (
	byIPv4      = "IPv4"
	byIPv6      = "IPv6"
	byLinkLocal = "link-local"
	byDockers4  = "IPv4, of a bridge of Docker's"
	byDockers6  = "IPv6, of a bridge of Docker's"
	byLoopback4 = "127.0.0.0/8"
	byLoopback6 = "::1"
	byAny       = "any"
)

// Whom the server sees.
const (
	asItself  = "the client itself"
	asGateway = "its gateway"
	byProxy   = "its gateway, by the proxy"
	shielded  = "the client itself, from Docker 28 on its gateway"
	unserved  = "nobody: not served"
	notThere  = "-"
)

// sight is whom two servers see, one with both families and one with IPv4 alone.
type sight struct{ who, by, both, only4 string }

// sights are of ports that are published on all addresses, over TCP and UDP alike.
func sights() []sight {
	return []sight{
		{aMachine, byIPv4, asItself, asItself},
		{aMachine, byIPv6, asItself, byProxy},
		{aMachine, byLinkLocal, byProxy, byProxy},
		{aStranger, byIPv6, byProxy, byProxy},
		{theHost, byIPv4, asItself, asItself},
		{theHost, byIPv6, asItself, byProxy},
		{theHost, byDockers4, shielded, shielded},
		{theHost, byDockers6, shielded, byProxy},
		{theHost, byLinkLocal, byProxy, byProxy},
		{theHost, byLoopback4, asGateway, asGateway},
		{theHost, byLoopback6, byProxy, byProxy},
		{aPeer, byIPv4, asGateway, asGateway},
		{aPeer, byIPv6, asGateway, notThere},
		{aPeer, byLinkLocal, byProxy, notThere},
		{another, byIPv4, asItself, asItself},
		{another, byIPv6, asItself, byProxy},
		{another, byLinkLocal, byProxy, byProxy},
		{ofDockers, byIPv4, shielded, shielded},
		{ofDockers, byIPv6, shielded, byProxy},
		{ofDockers, byLinkLocal, byProxy, byProxy},
		{anInternal, byAny, unserved, unserved},
	}
}

// TestDocsOfPortsTellWhomServersSee makes docs/ports.md of the table, to which the next
// test holds real engines.
func TestDocsOfPortsTellWhomServersSee(t *testing.T) {
	table := "| who asks | by the host's address | a server with both families sees | one with IPv4 alone sees |\n| --- | --- | --- | --- |\n"
	for _, s := range sights() {
		table += fmt.Sprintf("| %s | %s | %s | %s |\n", s.who, s.by, s.both, s.only4)
	}
	var page strings.Builder
	if err := template.Must(template.ParseFiles("testdata/ports.md")).Execute(&page, table); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "../../docs/ports.md", page.String())
}

// TestEnginePublishedPortsAnswerFromEverywhere asks over TCP and UDP for what c1, with both
// families, and v1, with IPv4 alone, publish, behind either firewall and behind none. A
// client of UDP takes an answer from nobody but the address that it asked.
func TestEnginePublishedPortsAnswerFromEverywhere(t *testing.T) {
	eachEngineAfter(t, leavesItsTraces, func(s *site) {
		p := s.places()
		questions := p.questions()
		p.answered(questions)
		if !allWithIptables() {
			s.serveWith("--firewall=none")
			s.settled()
			p.answered(byProxyAlone(questions))
		}
		s.serveWith("--firewall=iptables")
		s.settled()
		p.answered(questions)
		s.Docker("rm", "-f", "c1")
		s.Outside.MustNotReach("tcp", join("192.0.2.1", ofC1), hello.Refuse)
		s.Host.Run("ip", "addr", "del", "192.0.2.77/24", "dev", "eth0")
		s.Host.Run("ip", "addr", "del", "2001:db8:1::77/64", "dev", "eth0")
	})
}

// leavesItsTraces is about the engine's tables and ours, and about docker0's link-local
// address, which it has since the first container on it.
func leavesItsTraces(s *site) {
	warmUpIPv6(s)
	s.Host.Set("net/ipv6/conf/docker0/accept_dad", "0")
	s.Docker("run", "--rm", lab.Image, "true")
	leavesTables(s)
}

// The ports.
const (
	ofC1       = "8080" // on all addresses
	ofV1       = "8084" // likewise
	ofLoopback = "8085" // of c1, on 127.0.0.1 and ::1
)

// places is a host with containers on all kinds of network.
type places struct {
	*site
	askers map[string]asker
}

// asker is somebody who asks.
type asker struct {
	*lab.Host
	own   func(to string) string // the address that it has towards another; "" if none
	local string                 // the host's link-local address on the link between them
}

// places has c2 beside c1 on a network, d1 on another, i1 on an internal one, k1 on one of
// Docker's, k0 on its default network and h1 on none, but on the host.
func (s *site) places() *places {
	s.t.Helper()
	s.Host.Run("ip", "addr", "add", "192.0.2.77/24", "dev", "eth0")
	s.Host.Run("ip", "addr", "add", "2001:db8:1::77/64", "dev", "eth0", "nodad", "preferred_lft", "0")
	s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
	s.dual("other", "172.30.2.0/24", "fd00:30:2::/64")
	s.network("cell", "--internal", "--ipv6", "--subnet", "172.30.3.0/24", "--subnet", "fd00:30:3::/64")
	s.network("four", "--subnet", "172.30.4.0/24")
	s.Run("c1", "--network", "web", "-p", ofC1+":80/tcp", "-p", ofC1+":80/udp",
		"-p", "127.0.0.1:"+ofLoopback+":80/tcp", "-p", "127.0.0.1:"+ofLoopback+":80/udp",
		"-p", "[::1]:"+ofLoopback+":80/tcp", "-p", "[::1]:"+ofLoopback+":80/udp")
	s.Run("v1", "--network", "four", "-p", ofV1+":80/tcp", "-p", ofV1+":80/udp")
	s.dockersOwn("docker") // else v1's ports of IPv6 were left to it
	for name, network := range map[string]string{"c2": "web", "d1": "other", "i1": "cell", "k1": "docker", "k0": "bridge", "h1": "host"} {
		s.Docker("run", "-d", "--name", name, "--network", network, lab.Image, "peer", "serve", "tcp:81")
	}
	s.neighboursKnowTheWay()
	p := &places{s, map[string]asker{}}
	p.addMachines()
	p.addContainers()
	return p
}

// addMachines adds the host and others. The stranger is one that has, towards the host, no
// address of IPv6 but a link-local one.
func (p *places) addMachines() {
	p.t.Helper()
	p.askers["outside"] = p.asker(p.Outside, "eth0", "192.0.2.2", "2001:db8:1::2")
	ofHost := p.asker(p.Host, "eth0", "", "")
	// The kernel answers its own host from the address that is asked, but of several in
	// one subnet of IPv4 from the first.
	ofHost.own = func(to string) string { return strings.Replace(to, "192.0.2.77", "192.0.2.1", 1) }
	p.askers["host"] = ofHost
	ofHost.Host = p.Inside("h1")
	p.askers["h1"] = ofHost

	stranger := addressOf(p.t, p.Neighbour, "eth0", "-6", "scope", "link")
	p.askers["stranger"] = p.asker(p.Neighbour, "eth0", "", stranger)
	via, _, _ := strings.Cut(p.askers["stranger"].local, "%")
	for _, to := range p.addresses(byIPv6, "stranger") {
		p.Neighbour.Run("ip", "route", "add", to+"/128", "via", via, "dev", "eth0", "src", stranger)
	}
}

func (p *places) addContainers() {
	p.t.Helper()
	for name, gateway6 := range map[string]string{
		"c1": "fd00:30:1::1", "c2": "fd00:30:1::1", "d1": "fd00:30:2::1", "i1": "fd00:30:3::1", "v1": "", "k1": "fd00:31:9::1", "k0": "",
	} {
		h, own6, link := p.Inside(name), "", ""
		if gateway6 != "" {
			own6 = addressOf(p.t, h, "eth0", "-6", "scope", "global")
			link = strings.Fields(p.Host.Run("ip", "-o", "addr", "show", "to", gateway6))[1]
		}
		p.askers[name] = p.asker(h, link, addressOf(p.t, h, "eth0", "-4"), own6)
	}
	// What leads out of an internal network leads nowhere.
	p.askers["i1"].Run("ip", "route", "add", "default", "via", "172.30.3.1")
	p.askers["i1"].Run("ip", "route", "add", "default", "via", "fd00:30:3::1")
}

// asker is somebody who has a link of the host's on the other side of its own eth0.
func (p *places) asker(h *lab.Host, link, four, six string) asker {
	p.t.Helper()
	a := asker{Host: h, own: func(to string) string {
		if strings.Contains(to, ":") {
			return six
		}
		return four
	}}
	if link != "" {
		index, _, _ := strings.Cut(h.Run("ip", "-o", "link", "show", "dev", "eth0"), ":")
		a.local = addressOf(p.t, p.Host, link, "-6", "scope", "link") + "%" + index
		addressOf(p.t, h, "eth0", "-6", "scope", "link") // or it would ask by a global one
	}
	return a
}

// addressOf is the first address of a kind on a machine's link, as soon as it may be used.
func addressOf(t *testing.T, h *lab.Host, link, family string, kind ...string) (address string) {
	t.Helper()
	lab.Until(t, link+" has an address", func() error {
		out := h.Run("ip", append([]string{family, "-o", "addr", "show", "dev", link}, kind...)...)
		if words := strings.Fields(out); len(words) > 3 && !strings.Contains(out, "tentative") {
			address, _, _ = strings.Cut(words[3], "/")
			return nil
		}
		return fmt.Errorf("not yet: %s", out)
	})
	return address
}

// asking are who asks either server.
func (s sight) asking() (c1, v1 []string) {
	switch s.who {
	case aPeer:
		return []string{"c1", "c2"}, []string{"v1"}
	case another:
		return []string{"d1", "v1"}, []string{"d1", "c1"}
	}
	all := map[string][]string{
		aMachine: {"outside"}, aStranger: {"stranger"}, theHost: {"host", "h1"}, ofDockers: {"k1", "k0"}, anInternal: {"i1"},
	}[s.who]
	return all, all
}

// addresses are those of a kind that the host has, as far as the asker can ask for them.
func (p *places) addresses(by, asker string) []string {
	p.t.Helper()
	var all []string
	switch by {
	case byIPv4:
		all = []string{"192.0.2.1", "192.0.2.77", "172.30.1.1", "172.30.2.1", "172.30.4.1"}
	case byIPv6:
		all = []string{"2001:db8:1::1", "2001:db8:1::77", "fd00:30:1::1", "fd00:30:2::1"}
	case byDockers4:
		all = []string{"172.31.9.1", addressOf(p.t, p.Host, "docker0", "-4")}
	case byDockers6:
		all = []string{"fd00:31:9::1"}
	case byLinkLocal:
		all = []string{p.askers[asker].local}
	case byLoopback4:
		all = []string{"127.0.0.1", "127.0.0.2"}
	case byLoopback6:
		all = []string{"::1"}
	case byAny:
		all = slices.Concat([]string{"172.30.3.1", "fd00:30:3::1"}, p.addresses(byIPv4, asker), p.addresses(byIPv6, asker), p.addresses(byLinkLocal, asker))
	}
	return slices.DeleteFunc(all, func(to string) bool { return to == "" || p.askers[asker].own(to) == "" })
}

// server is a published port of a container.
type server struct{ name, port, gateway4, gateway6 string }

// question is put over TCP and over UDP.
type question struct {
	who          string
	client       *lab.Host
	to           string // e.g. 192.0.2.1:8080
	server, sees string // who is to answer, and the client that it sees; "" where nobody is to
	gateway      string // of the server; "" for a machine
}

// questions are what is asked: beside the sights, that the port on the loopback is nobody
// else's, and that a remote machine's is not taken for one that is published here.
func (p *places) questions() []question {
	p.t.Helper()
	onC1 := server{"c1", ofC1, "172.30.1.1", "fd00:30:1::1"}
	onV1 := server{"v1", ofV1, "172.30.4.1", "172.30.4.1"}
	onLoopback := server{"c1", ofLoopback, "172.30.1.1", "fd00:30:1::1"}
	all := p.remote()
	for _, s := range sights() {
		c1, v1 := s.asking()
		all = slices.Concat(all, p.asked(s, c1, s.both, onC1), p.asked(s, c1, s.both, onLoopback), p.asked(s, v1, s.only4, onV1))
	}
	return all
}

// asked are questions of some askers, by all addresses that are meant. Of what is told
// there is always one at least.
func (p *places) asked(s sight, askers []string, seen string, at server) []question {
	p.t.Helper()
	if seen == notThere {
		return nil
	}
	var all []question
	for _, name := range askers {
		for _, to := range p.addresses(s.by, name) {
			all = append(all, p.question(s.who, name, to, seen, at))
		}
	}
	if len(all) == 0 {
		p.t.Errorf("%s, by %s: nobody asks %s", s.who, s.by, at.name)
	}
	return all
}

func (p *places) question(who, name, to, seen string, at server) question {
	a := p.askers[name]
	q := question{who: fmt.Sprintf("%s (%s)", who, name), client: a.Host, to: join(to, at.port), server: at.name}
	q.gateway = at.gateway4
	if strings.Contains(to, ":") {
		q.gateway = at.gateway6
	}
	if at.port == ofLoopback && to != "127.0.0.1" && to != "::1" {
		return q
	}
	switch seen {
	case asItself:
		q.sees = a.own(to)
	case shielded:
		q.sees = p.seenFromDocker(a.own(to), q.gateway)
	case asGateway, byProxy:
		q.sees = q.gateway
	}
	return q
}

// byProxyAlone are questions for published ports where nothing is translated.
func byProxyAlone(questions []question) []question {
	var all []question
	for _, q := range questions {
		if q.sees != "" {
			q.sees = q.gateway
		}
		if q.gateway != "" {
			all = append(all, q)
		}
	}
	return all
}

// remote are questions for the port of another machine.
func (p *places) remote() []question {
	p.t.Helper()
	p.Outside.Serve("tcp", ":"+ofC1)
	var all []question
	for _, to := range []string{lab.Internet, lab.Internet6, p.Outside.Addr.String()} {
		p.Outside.Serve("udp", join(to, ofC1))
		f := both["IPv4"]
		if strings.Contains(to, ":") {
			f = both["IPv6"]
		}
		for _, name := range []string{"c1", "c2", "d1", "host"} {
			all = append(all, question{who: name, client: p.askers[name].Host, to: join(to, ofC1), server: "outside", sees: f.host(p.site)})
		}
	}
	return all
}

// answered asks, many at a time.
func (p *places) answered(questions []question) {
	p.t.Helper()
	var asking sync.WaitGroup
	turns := make(chan struct{}, 32)
	for _, q := range questions {
		for _, network := range []string{"tcp", "udp"} {
			turns <- struct{}{}
			asking.Go(func() {
				defer func() { <-turns }()
				if err := q.ask(network); err != nil {
					p.t.Errorf("%s asks %s/%s: %v", q.who, q.to, network, err)
				}
			})
		}
	}
	asking.Wait()
}

func (q question) ask(network string) error {
	wait := hello.Patience
	if q.sees == "" {
		wait = hello.Impatience
	}
	got, err := q.client.AskFor(network, q.to, wait)
	switch {
	case q.sees == "" && err != nil:
		return nil
	case q.sees == "":
		return fmt.Errorf("want no answer, got that of %s", got.Server)
	case err != nil:
		return fmt.Errorf("want an answer of %s: %w", q.server, err)
	case got.Server != q.server || got.Client.Addr().String() != q.sees:
		return fmt.Errorf("want an answer of %s, who sees %s, got %v", q.server, q.sees, got)
	}
	return nil
}
