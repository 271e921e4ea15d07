package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEnginePublishedPortsAnswerFromEverywhere asks for what two containers publish, of
// which c1 has both families and v1 IPv4 alone, wherever somebody can ask from and by every
// address of the host, with TCP and UDP. A client of UDP takes an answer from nobody but
// the address that it asked.
func TestEnginePublishedPortsAnswerFromEverywhere(t *testing.T) {
	eachEngineAfter(t, leavesItsTraces, func(s *site) {
		p := s.places()
		questions := p.questions()
		p.answered(questions)
		s.serveWith("--firewall=iptables")
		s.settled()
		p.answered(questions)
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

// Ports that are published, with TCP and UDP.
const (
	ofC1       = "8080" // on all addresses
	ofV1       = "8084" // likewise
	ofLoopback = "8085" // of c1, on 127.0.0.1 and ::1
)

// What a server may see besides an address.
const (
	itsBridge = "its bridge" // the address of the host that is its gateway
	nobody    = ""           // no answer comes
)

// places is a host with containers on all kinds of network.
type places struct {
	*site
	inside map[string]*lab.Host
}

// places has c2 beside c1 on a network, d1 on another, i1 on an internal one, k1 on one of
// Docker's, k0 on its default network and h1 on none, but on the host.
func (s *site) places() *places {
	s.t.Helper()
	s.Host.Run("ip", "addr", "add", "192.0.2.77/24", "dev", "eth0")
	s.Host.Run("ip", "addr", "add", "2001:db8:1::77/64", "dev", "eth0", "nodad", "preferred_lft", "0")
	s.Outside.Serve("tcp", ":"+ofC1)
	s.Outside.Serve("udp", join(lab.Internet, ofC1))
	s.Outside.Serve("udp", join(lab.Internet6, ofC1))

	s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
	s.dual("other", "172.30.2.0/24", "fd00:30:2::/64")
	s.network("cell", "--internal", "--ipv6", "--subnet", "172.30.3.0/24", "--subnet", "fd00:30:3::/64")
	s.network("four", "--subnet", "172.30.4.0/24")
	s.dockersOwn("docker")
	s.Run("c1", "--network", "web", "-p", ofC1+":80/tcp", "-p", ofC1+":80/udp",
		"-p", "127.0.0.1:"+ofLoopback+":80/tcp", "-p", "127.0.0.1:"+ofLoopback+":80/udp",
		"-p", "[::1]:"+ofLoopback+":80/tcp", "-p", "[::1]:"+ofLoopback+":80/udp")
	s.Run("v1", "--network", "four", "-p", ofV1+":80/tcp", "-p", ofV1+":80/udp")
	p := &places{s, map[string]*lab.Host{"c1": s.Inside("c1"), "v1": s.Inside("v1")}}
	for name, network := range map[string]string{"c2": "web", "d1": "other", "i1": "cell", "k1": "docker", "k0": "bridge", "h1": "host"} {
		s.Docker("run", "-d", "--name", name, "--network", network, lab.Image, "peer", "serve", "tcp:81")
		p.inside[name] = s.Inside(name)
	}
	// What leads out of an internal network leads nowhere.
	p.inside["i1"].Run("ip", "route", "add", "default", "via", "172.30.3.1")
	p.inside["i1"].Run("ip", "route", "add", "default", "via", "fd00:30:3::1")
	s.neighboursKnowTheWay()
	return p
}

// visit is somebody who asks for published ports by one address of the host.
type visit struct {
	who    string
	client *lab.Host
	to     string // e.g. fe80::1%2
	c1, v1 string // whom the two servers see
}

// fromOtherMachines has the neighbour be a machine without an address of its own to one of
// the host's.
func (p *places) fromOtherMachines() []visit {
	p.t.Helper()
	p.Neighbour.Run("ip", "route", "add", "2001:db8:1::77/128", "dev", "eth0", "src", addressOf(p.t, p.Neighbour, "eth0", "-6", "scope", "link"))
	const four, six = "192.0.2.2", "2001:db8:1::2"
	return []visit{
		{"another machine", p.Outside, "192.0.2.1", four, four},
		{"another machine", p.Outside, "2001:db8:1::1", six, itsBridge},
		{"another machine, by a second address", p.Outside, "192.0.2.77", four, four},
		{"another machine, by a second address", p.Outside, "2001:db8:1::77", six, itsBridge},
		{"another machine, by a bridge's address", p.Outside, "172.30.1.1", four, four},
		{"another machine, by a bridge's address", p.Outside, "fd00:30:1::1", six, itsBridge},
		{"another machine, among link-local addresses", p.Outside, p.local(p.Outside, "eth0"), itsBridge, itsBridge},
		{"a machine with a link-local address alone", p.Neighbour, "2001:db8:1::77", itsBridge, itsBridge},
	}
}

// fromTheHost asks by each address that a host has. The kernel gives such a question the
// same address for its source, but of several in one subnet of IPv4 the first.
func (p *places) fromTheHost() []visit {
	p.t.Helper()
	all := []visit{{"the host, by a second address", p.Host, "192.0.2.77", "192.0.2.1", "192.0.2.1"}}
	for _, own := range []string{"192.0.2.1", "172.30.1.1", "172.30.2.1", "172.30.4.1"} {
		all = append(all, visit{"the host", p.Host, own, own, own})
	}
	for _, own := range []string{"2001:db8:1::1", "2001:db8:1::77", "fd00:30:1::1", "fd00:30:2::1"} {
		all = append(all, visit{"the host", p.Host, own, own, itsBridge})
	}
	for _, engines := range []string{"172.31.9.1", addressOf(p.t, p.Host, "docker0", "-4")} {
		sees := p.seenOnDockers(engines)
		all = append(all, visit{"the host, by the address of a bridge of Docker's", p.Host, engines, sees, sees})
	}
	all = append(all, visit{"the host, by the address of a bridge of Docker's", p.Host, "fd00:31:9::1", p.seenOnDockers("fd00:31:9::1"), itsBridge})
	for _, loopback := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		all = append(all,
			visit{"the host", p.Host, loopback, itsBridge, itsBridge},
			visit{"a container in the host's network", p.inside["h1"], loopback, itsBridge, itsBridge})
	}
	return append(all,
		visit{"a container in the host's network", p.inside["h1"], "192.0.2.1", "192.0.2.1", "192.0.2.1"},
		visit{"the host, by its link-local address", p.Host, p.local(p.Host, "eth0"), itsBridge, itsBridge})
}

// seenOnDockers is whom the servers see of a client with an address of Docker's networks.
func (p *places) seenOnDockers(client string) string { return p.seenFromDocker(client, itsBridge) }

// fromContainers asks by an address of the uplink's, and by those of the client's own bridge.
func (p *places) fromContainers() []visit {
	p.t.Helper()
	const own = "its own address"
	docker := p.seenOnDockers(own)
	var all []visit
	for _, c := range []struct {
		who, name string
		four, six string // of the bridge; "" where the client has no IPv6
		c1, v1    string
	}{
		{"the container itself", "c1", "172.30.1.1", "fd00:30:1::1", itsBridge, own},
		{"the other container itself", "v1", "172.30.4.1", "", own, itsBridge},
		{"a container on the same network", "c2", "172.30.1.1", "fd00:30:1::1", itsBridge, own},
		{"a container on another network", "d1", "172.30.2.1", "fd00:30:2::1", own, own},
		{"a container on a network of Docker's", "k1", "172.31.9.1", "fd00:31:9::1", docker, docker},
		{"a container on Docker's default network", "k0", addressOf(p.t, p.Host, "docker0", "-4"), "", docker, docker},
		{"a container on an internal network", "i1", "172.30.3.1", "fd00:30:3::1", nobody, nobody},
	} {
		client := p.inside[c.name]
		is := map[string]string{itsBridge: itsBridge, own: addressOf(p.t, client, "eth0", "-4"), nobody: nobody}
		for _, to := range []string{c.four, "192.0.2.1"} {
			all = append(all, visit{c.who, client, to, is[c.c1], is[c.v1]})
		}
		if c.six == "" {
			continue
		}
		is[own] = addressOf(p.t, client, "eth0", "-6", "scope", "global")
		proxied := itsBridge
		if c.v1 == nobody {
			proxied = nobody
		}
		for _, to := range []string{c.six, "2001:db8:1::1"} {
			all = append(all, visit{c.who, client, to, is[c.c1], proxied})
		}
		all = append(all, visit{c.who, client, p.local(client, p.linkWith(c.six)), proxied, proxied})
	}
	return all
}

// linkWith is the name of the link on which the host has an address.
func (p *places) linkWith(address string) string {
	p.t.Helper()
	return strings.Fields(p.Host.Run("ip", "-o", "addr", "show", "to", address))[1]
}

// local is the link-local address that the host has on one of its links, as a machine
// knows it that is on eth0 behind it.
func (p *places) local(client *lab.Host, link string) string {
	p.t.Helper()
	index, _, _ := strings.Cut(client.Run("ip", "-o", "link", "show", "dev", "eth0"), ":")
	return addressOf(p.t, p.Host, link, "-6", "scope", "link") + "%" + index
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

// question is put over TCP and over UDP.
type question struct {
	visit
	address, server, sees string
}

// questions are what is asked: the port that c1 has on the loopback is nobody else's, and
// a remote machine's port is not taken for one that is published here.
func (p *places) questions() []question {
	p.t.Helper()
	var all []question
	for _, v := range slices.Concat(p.fromOtherMachines(), p.fromTheHost(), p.fromContainers()) {
		gateway := "172.30.1.1"
		if strings.Contains(v.to, ":") {
			gateway = "fd00:30:1::1"
		}
		loopback := nobody
		if v.to == "127.0.0.1" || v.to == "::1" {
			loopback = gateway
		}
		seen := func(by, gateway string) string { return strings.Replace(by, itsBridge, gateway, 1) }
		all = append(all,
			question{v, join(v.to, ofC1), "c1", seen(v.c1, gateway)},
			question{v, join(v.to, ofV1), "v1", seen(v.v1, "172.30.4.1")},
			question{v, join(v.to, ofLoopback), "c1", loopback})
	}
	for _, name := range []string{"c1", "c2", "d1"} {
		remote := visit{who: "container " + name, client: p.inside[name]}
		for _, f := range both {
			all = append(all, question{remote, join(f.internet, ofC1), "outside", f.host(p.site)})
		}
	}
	return all
}

// answered asks, many at a time.
func (p *places) answered(questions []question) {
	p.t.Helper()
	var asking sync.WaitGroup
	places := make(chan struct{}, 32)
	for _, q := range questions {
		for _, network := range []string{"tcp", "udp"} {
			places <- struct{}{}
			asking.Go(func() {
				defer func() { <-places }()
				if err := q.ask(network); err != nil {
					p.t.Errorf("%s asks %s/%s: %v", q.who, q.address, network, err)
				}
			})
		}
	}
	asking.Wait()
}

func (q question) ask(network string) error {
	wait := hello.Patience
	if q.sees == nobody {
		wait = hello.Impatience
	}
	got, err := q.client.AskFor(network, q.address, wait)
	switch {
	case q.sees == nobody && err != nil:
		return nil
	case q.sees == nobody:
		return fmt.Errorf("want no answer, got that of %s", got.Server)
	case err != nil:
		return fmt.Errorf("want an answer of %s: %w", q.server, err)
	case got.Server != q.server || got.Client.Addr().String() != q.sees:
		return fmt.Errorf("want an answer of %s, who sees %s, got %v", q.server, q.sees, got)
	}
	return nil
}
