package firewalltest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// town is a lab whose host has networks a and b, an internal network i and an
// engine's bridge docker0, with containers on each, and the firewall for them.
type town struct {
	*scene.Town
	backend Backend
	a1, a2  *lab.Host // on network a, 172.30.0.2 and .3, IPv6 too; a1 publishes
	b1      *lab.Host // on network b, 172.30.1.2
	i1, i2  *lab.Host // on the internal network, 172.30.2.2 and .3
	docker  *lab.Host // on docker0, 172.17.0.2
}

func newTown(t testing.TB, b Backend) *town {
	t.Helper()
	w := scene.NewWorld(t)
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	w.Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
		Network("1", spec.Network{Internal: true}, "172.30.2.0/24").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			scene.TCP("", 8080, 80, 1), scene.UDP("", 8080, 80, 1), scene.TCP("", 9000, 9000, 3), scene.TCP("127.0.0.1", 7000, 80, 1),
			scene.UDP("", 8082, 82, 1), scene.UDP("127.0.0.1", 7082, 82, 1), scene.TCP("192.0.2.1", 7001, 80, 1), scene.TCP("192.0.2.1", 9100, 9100, 3)).
		Endpoint("1", "d", "172.30.2.2/24", "", scene.TCP("", 7100, 80, 1))
	c := settle(t, b, w)
	c.Bridge("docker0", netip.MustParsePrefix("172.17.0.1/16"))
	internal := scene.Bridge("1")
	// As on a host whose ip_forward is 1, where no sysctl keeps a network internal.
	for _, link := range []string{"docker0", internal} {
		c.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
	}
	c.a1 = c.Container("a1", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	c.a2 = c.Container("a2", scene.Bridge("a"), "172.30.0.3/24", "fd00:30::3/64")
	c.b1 = c.Container("b1", scene.Bridge("b"), "172.30.1.2/24")
	c.i1 = c.Container("i1", internal, "172.30.2.2/24")
	c.i2 = c.Container("i2", internal, "172.30.2.3/24")
	c.docker = c.Container("docker", "docker0", "172.17.0.2/16")
	return c
}

// settle makes a lab whose host has the bridges of a world, and the firewall for it.
func settle(t testing.TB, b Backend, w *scene.World) *town {
	t.Helper()
	p := w.Plan()
	return &town{Town: scene.Settle(t, p, func(h *lab.Host) { b.Protect(t, h, p) }), backend: b}
}

// dropped asserts which rule drops what somebody sends. On a busy machine it may be lost
// on the way, where links have only just come up, so it is sent again now and then.
func (c *town) dropped(why string, send func()) {
	c.T.Helper()
	count := func() int {
		n := 0
		for reason, dropped := range c.backend.Drops(c.T, c.Host) {
			if strings.HasPrefix(reason, why) {
				n += dropped
			}
		}
		return n
	}
	before := count()
	send()
	sent := time.Now()
	lab.Until(c.T, "a packet that is dropped", func() error {
		if count() > before {
			return nil
		}
		if time.Since(sent) > time.Second {
			send()
			sent = time.Now()
		}
		return fmt.Errorf("not by %q", why)
	})
}

// settled waits until a machine and its gateways know each other. Before that it would not
// even speak by its own IPv6 address.
func settled(t testing.TB, h *lab.Host, gateways ...string) {
	t.Helper()
	for _, gateway := range gateways {
		lab.Until(t, "ping "+gateway, func() error { return h.Ping(netip.MustParseAddr(gateway), hello.Impatience) })
	}
}

// question is put to somebody, and has a fate.
type question struct {
	from             *lab.Host
	network, address string // or ping, and an address without a port
	want             hello.Verdict
}

// fates puts all questions at once: most of it is waiting for silence.
func fates(t *testing.T, questions map[string]question) {
	t.Helper()
	var asking sync.WaitGroup
	for name, q := range questions {
		asking.Go(func() {
			wait := hello.Impatience
			if q.want == hello.Accept {
				wait = hello.Patience
			}
			var answer hello.Answer
			var err error
			if q.network == ping {
				err = q.from.Ping(netip.MustParseAddr(q.address), wait)
			} else {
				answer, err = q.from.AskFor(q.network, q.address, wait)
			}
			if got := hello.Judge(err); got != q.want {
				t.Errorf("%s, %s/%s: want %s, got %s: %v %v", name, q.address, q.network, q.want, got, answer, err)
			}
		})
	}
	asking.Wait()
}

// ping is the network of a question that is asked by ping.
const ping = "ping"
