package nftables

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// town is a lab whose host has networks a and b, an internal network i and an
// engine's bridge docker0, with containers on each, and the table for them.
type town struct {
	*scene.Town
	machine *machine
	a1, a2  *lab.Host // on network a, 172.30.0.2 and .3, IPv6 too; a1 publishes
	b1      *lab.Host // on network b, 172.30.1.2
	i1, i2  *lab.Host // on the internal network, 172.30.2.2 and .3
	docker  *lab.Host // on docker0, 172.17.0.2
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := scene.NewWorld(t)
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	w.Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
		Network("1", spec.Network{Internal: true}, "172.30.2.0/24").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			scene.TCP("", 8080, 80, 1), scene.UDP("", 8080, 80, 1), scene.TCP("", 9000, 9000, 3), scene.TCP("127.0.0.1", 7000, 80, 1), scene.TCP("192.0.2.1", 7001, 80, 1), scene.TCP("192.0.2.1", 9100, 9100, 3)).
		Endpoint("1", "d", "172.30.2.2/24", "", scene.TCP("", 7100, 80, 1))
	c := settle(t, w)
	c.Bridge("docker0", netip.MustParsePrefix("172.17.0.1/16"))
	a, b, internal := scene.Bridge("a"), scene.Bridge("b"), scene.Bridge("1")
	// As on a host whose ip_forward is 1, where no sysctl keeps a network internal.
	for _, link := range []string{"docker0", internal} {
		c.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
	}
	c.a1 = c.Container("a1", a, "172.30.0.2/24", "fd00:30::2/64")
	c.a2 = c.Container("a2", a, "172.30.0.3/24", "fd00:30::3/64")
	c.b1 = c.Container("b1", b, "172.30.1.2/24")
	c.i1 = c.Container("i1", internal, "172.30.2.2/24")
	c.i2 = c.Container("i2", internal, "172.30.2.3/24")
	c.docker = c.Container("docker", "docker0", "172.17.0.2/16")
	return c
}

// settle makes a lab whose host has the bridges of a world, and the tables for it.
func settle(t testing.TB, w *scene.World) *town {
	t.Helper()
	return settlePlan(t, w.Plan())
}

// settlePlan is settle for a plan made elsewhere.
func settlePlan(t testing.TB, p *plan.Plan) *town {
	t.Helper()
	c := &town{}
	c.Town = scene.Settle(t, p, func(h *lab.Host) {
		c.machine = newMachine(t, h)
		c.machine.apply(nil, p)
	})
	return c
}

// TestKernelPublishedPorts runs with frames between containers shown to the
// firewall and, as on most hosts, not.
func TestKernelPublishedPorts(t *testing.T) {
	scene.BridgedOrNot(t, func(t *testing.T, value string) {
		c := newTown(t)
		c.Bridged(value)
		testPublishedPorts(t, c)
	})
}

func testPublishedPorts(t *testing.T, c *town) {
	for name, row := range map[string]struct {
		from                           *lab.Host
		network, address, server, sees string
	}{
		"from outside":                                 {c.Outside, "tcp", "192.0.2.1:8080", "a1", "192.0.2.2"},
		"from outside by UDP":                          {c.Outside, "udp", "192.0.2.1:8080", "a1", "192.0.2.2"},
		"from outside to a port of a range":            {c.Outside, "tcp", "192.0.2.1:9001", "a1", "192.0.2.2"},
		"from outside to one address":                  {c.Outside, "tcp", "192.0.2.1:7001", "a1", "192.0.2.2"},
		"from outside to a range of one address":       {c.Outside, "tcp", "192.0.2.1:9101", "a1", "192.0.2.2"},
		"from outside by IPv6":                         {c.Outside, "tcp", "[2001:db8:1::1]:8080", "a1", "2001:db8:1::2"},
		"from the host's own address":                  {c.Host, "tcp", "192.0.2.1:8080", "a1", "192.0.2.1"},
		"from the host's own IPv6 address":             {c.Host, "tcp", "[2001:db8:1::1]:8080", "a1", "2001:db8:1::1"},
		"from 127.0.0.1":                               {c.Host, "tcp", "127.0.0.1:8080", "a1", "172.30.0.1"},
		"from 127.0.0.1 by UDP":                        {c.Host, "udp", "127.0.0.1:8080", "a1", "172.30.0.1"},
		"from 127.0.0.1 to a port of 127.0.0.1":        {c.Host, "tcp", "127.0.0.1:7000", "a1", "172.30.0.1"},
		"from a peer through the host":                 {c.a2, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from a peer through the host by IPv6":         {c.a2, "tcp", "[2001:db8:1::1]:8080", "a1", "fd00:30::1"},
		"from a peer through the gateway":              {c.a2, "tcp", "172.30.0.1:8080", "a1", "172.30.0.1"},
		"from the container itself":                    {c.a1, "tcp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from the container itself by UDP":             {c.a1, "udp", "192.0.2.1:8080", "a1", "172.30.0.1"},
		"from another network of ours":                 {c.b1, "tcp", "192.0.2.1:8080", "a1", "172.30.1.2"},
		"from an engine's network, address kept":       {c.docker, "tcp", "192.0.2.1:8080", "a1", "172.17.0.2"},
		"from the host to the container's own address": {c.Host, "tcp", "172.30.0.2:81", "a1", "172.30.0.1"},
		"from a peer to the container's own address":   {c.a2, "tcp", "172.30.0.2:81", "a1", "172.30.0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			c.T = t
			c.Reach(row.from, row.network, row.address, row.server, row.sees)
		})
	}
}

// TestKernelAnEnginesMasqueradeComesTooLate adds the rule with which an engine
// would hide its containers from ours.
func TestKernelAnEnginesMasqueradeComesTooLate(t *testing.T) {
	c := newTown(t)
	c.Host.Feed(`table ip nat {
		chain POSTROUTING {
			type nat hook postrouting priority 100
			ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
		}
	}`, "nft", "-f", "-")
	c.Reach(c.docker, "tcp", "192.0.2.1:8080", "a1", "172.17.0.2")
}

func TestKernelContainersReachOutsideBehindTheHost(t *testing.T) {
	c := newTown(t)
	for _, at := range []string{"tcp [::]:80", "tcp [::]:8080"} {
		scene.Serve(t, c.Outside, "outside", at)
	}
	c.Reach(c.a2, "tcp", lab.Internet+":80", "outside", "192.0.2.1")
	c.Reach(c.a2, "tcp", "["+lab.Internet6+"]:80", "outside", "2001:db8:1::1")
	// Published here, and yet the other machine's port.
	c.Reach(c.a2, "tcp", lab.Internet+":8080", "outside", "192.0.2.1")
	c.Reach(c.b1, "tcp", "192.0.2.2:8080", "outside", "192.0.2.1")
	scene.Serve(t, c.Host, "host", "tcp [::]:22")
	c.Reach(c.a2, "tcp", "172.30.0.1:22", "host", "172.30.0.3")
	c.Reach(c.a2, "tcp", "192.0.2.1:22", "host", "172.30.0.3")
	c.Reach(c.Host, "tcp", "172.30.0.1:22", "host", "172.30.0.1")
}

// TestKernelWhatAnEnginePublishesIsOpenToOurs stands in for an engine's DNAT.
func TestKernelWhatAnEnginePublishesIsOpenToOurs(t *testing.T) {
	c := newTown(t)
	c.Host.Feed(`table ip nat {
		chain PREROUTING {
			type nat hook prerouting priority -100
			ip daddr 192.0.2.1 tcp dport 5000 dnat to 172.17.0.2:80
		}
	}`, "nft", "-f", "-")
	c.a2.MustReach("tcp", "192.0.2.1:5000", "docker")
	c.a2.MustNotReach("tcp", "172.17.0.2:80", hello.Drop)
}

func TestKernelClosed(t *testing.T) {
	c := newTown(t)
	for _, to := range []string{"172.30.0.0/24", "172.30.1.0/24", "172.30.2.0/24", "fd00:30::/64"} {
		c.Neighbour.Route(netip.MustParsePrefix(to), c.Host)
	}
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
	c.i1.Run("ip", "route", "replace", "default", "via", "172.30.2.1")
	for name, row := range map[string]struct {
		from             *lab.Host
		network, address string
		want             hello.Verdict
	}{
		"a container's own address, from a neighbour with a route": {c.Neighbour, "tcp", "172.30.0.2:80", hello.Drop},
		"the same by UDP":                                          {c.Neighbour, "udp", "172.30.0.2:80", hello.Drop},
		"the same by IPv6":                                         {c.Neighbour, "tcp", "[fd00:30::2]:80", hello.Drop},
		"a container that publishes nothing":                       {c.Neighbour, "tcp", "172.30.1.2:80", hello.Drop},
		"a container of another network":                           {c.b1, "tcp", "172.30.0.2:80", hello.Drop},
		"the same the other way":                                   {c.a1, "tcp", "172.30.1.2:80", hello.Drop},
		"a container of ours, from an engine's":                    {c.docker, "tcp", "172.30.0.2:80", hello.Drop},
		"an engine's container, from ours":                         {c.a1, "tcp", "172.17.0.2:80", hello.Drop},
		"an internal network, from a neighbour":                    {c.Neighbour, "tcp", "172.30.2.2:80", hello.Drop},
		"an internal network, from a network":                      {c.a1, "tcp", "172.30.2.2:80", hello.Drop},
		"the world, from an internal network":                      {c.i1, "tcp", lab.Internet + ":80", hello.Drop},
		"the port of an internal network, from outside":            {c.Outside, "tcp", "192.0.2.1:7100", hello.Drop},
		"a network, from an internal network":                      {c.i1, "tcp", "172.30.0.2:80", hello.Drop},
		"a port that is published on 127.0.0.1 only, from outside": {c.Outside, "tcp", "192.0.2.1:7000", hello.Refuse},
		"a port that is published on one address, on another":      {c.Host, "tcp", "127.0.0.1:7001", hello.Refuse},
		"a port behind the end of a range":                         {c.Outside, "tcp", "192.0.2.1:9003", hello.Refuse},
		"a published port on ::1, which is refused at once":        {c.Host, "tcp", "[::1]:8080", hello.Refuse},
	} {
		t.Run(name, func(*testing.T) {
			row.from.MustNotReach(row.network, row.address, row.want)
		})
	}
	c.i1.MustReach("tcp", "172.30.2.3:80", "i2")
	// Each direction by itself, although one would spoil a conversation.
	counted(t, c.Host, "forward", "iifname @internal")
	counted(t, c.Host, "forward", "oifname @internal")
}

// TestKernelLinkLocalAddressesAreNotPublished asks by an address whose answers no
// container could send.
func TestKernelLinkLocalAddressesAreNotPublished(t *testing.T) {
	c := newTown(t)
	scene.Serve(t, c.Host, "host", "tcp [::]:8080")
	index, _, _ := strings.Cut(c.a2.Run("ip", "-o", "link", "show", "dev", "eth0"), ":")
	var bridge []struct {
		AddrInfo []struct{ Local string } `json:"addr_info"`
	}
	out := c.Host.Run("ip", "-j", "-6", "addr", "show", "dev", scene.Bridge("a"), "scope", "link")
	if err := json.Unmarshal([]byte(out), &bridge); err != nil {
		t.Fatal(err)
	}
	var gateway string
	for _, b := range bridge {
		for _, a := range b.AddrInfo {
			gateway = a.Local
		}
	}
	c.a2.MustReach("tcp", fmt.Sprintf("[%s%%%s]:8080", gateway, index), "host")
}

// TestKernelLoopbackIsTheHostsOwn sends what a machine on the wire can craft for
// a host whose bridges have route_localnet.
func TestKernelLoopbackIsTheHostsOwn(t *testing.T) {
	c := newTown(t)
	scene.Serve(t, c.Host, "host", "tcp 127.0.0.1:22")
	c.Host.MustReach("tcp", "127.0.0.1:22", "host")
	for _, from := range []struct {
		host *lab.Host
		via  string
	}{{c.a2, "172.30.0.1"}, {c.Neighbour, "192.0.2.1"}} {
		from.host.Set("net/ipv4/conf/all/route_localnet", "1")
		from.host.Run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
		from.host.Run("ip", "route", "add", "127.0.0.1", "via", from.via)
		from.host.MustNotReach("tcp", "127.0.0.1:22", hello.Drop)
		from.host.MustNotReach("tcp", "127.0.0.1:7000", hello.Drop)
	}
	c.a2.Run("ip", "addr", "add", "127.0.0.9/32", "dev", "eth0")
	scene.Say(t, c.a2, "127.0.0.9", "172.30.0.1:53")
	counted(t, c.Host, "raw", `iifname != "lo" ip daddr 127.0.0.0/8`)
	counted(t, c.Host, "raw", `iifname != "lo" ip saddr 127.0.0.0/8`)
}

// TestKernelTheGuardKeepsTheHostFromBeingARouter sends from one uplink to another
// of a host that did not forward before we came.
func TestKernelTheGuardKeepsTheHostFromBeingARouter(t *testing.T) {
	for name, forwarding := range map[string]bool{"guarded where the host did not forward": false, "let alone where it did": true} {
		t.Run(name, func(t *testing.T) {
			l := lab.New(t)
			w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64")
			w.Host.Forwarding4, w.Host.Forwarding6 = forwarding, forwarding
			p := w.Plan()
			newMachine(t, l.Host).apply(nil, p)
			l.Host.Set("net/ipv4/conf/eth0/forwarding", "1")
			l.Host.Set("net/ipv6/conf/all/forwarding", "1")
			scene.Serve(t, l.Outside, "outside", "tcp [::]:80")
			l.Neighbour.Run("ip", "route", "add", lab.Internet+"/32", "via", l.Host.Addr.String())
			l.Neighbour.Run("ip", "route", "add", lab.Internet6+"/128", "via", l.Host.Addr6.String())
			for _, address := range []string{lab.Internet + ":80", "[" + lab.Internet6 + "]:80"} {
				if forwarding {
					l.Neighbour.MustReach("tcp", address, "outside")
				} else {
					l.Neighbour.MustNotReach("tcp", address, hello.Drop)
				}
			}
		})
	}
}

// TestKernelNothingLeavesUntranslated sends a segment that belongs to no connection
// and hence would pass by masquerade.
func TestKernelNothingLeavesUntranslated(t *testing.T) {
	c := newTown(t)
	header := make([]byte, 20) // source and destination port 0, no flags, no checksum
	header[12] = 5 << 4        // its own length
	var err error
	c.a2.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err == nil {
			err = errors.Join(unix.Sendto(fd, header, 0, &unix.SockaddrInet4{Addr: c.Outside.Addr.As4()}), unix.Close(fd))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	counted(t, c.Host, "forward", "ct state invalid")
}

// counted waits until the rule that begins so has dropped something.
func counted(t testing.TB, h *lab.Host, chain, rule string) {
	t.Helper()
	lab.Until(t, "dropped by "+rule, func() error {
		if dropped(t, h, "inet "+tableName+" "+chain, rule) == 0 {
			return errors.New("nothing")
		}
		return nil
	})
}

// dropped is how many packets the rule that begins so has dropped.
func dropped(t testing.TB, h *lab.Host, chain, rule string) int {
	t.Helper()
	rules := h.Run("nft", append([]string{"list", "chain"}, strings.Fields(chain)...)...)
	found := regexp.MustCompile(regexp.QuoteMeta(rule) + ` counter packets (\d+)`).FindStringSubmatch(rules)
	if found == nil {
		t.Fatalf("no rule %q in\n%s", rule, rules)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKernelAnEstablishedFlowSurvivesEverythingWeDo(t *testing.T) {
	c := newTown(t)
	conn := c.Outside.Dial("tcp", "192.0.2.1:8080")
	ask := func(when string) {
		t.Helper()
		if _, err := conn.Ask(hello.Patience); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	ask("at first")
	p := scene.Everything(t).Plan()
	c.machine.Run("nft", "delete", "table", "inet", tableName)
	c.machine.apply(nil, p)
	ask("rebuilt for another plan, in which a is still a network")
}
