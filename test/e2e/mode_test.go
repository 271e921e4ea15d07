package e2e

import (
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

const bridgeKey = "com.docker.network.bridge."

// neighboursKnowTheWay has the other machines send what is for containers to the host.
func (s *site) neighboursKnowTheWay() {
	s.t.Helper()
	for _, subnets := range []string{"172.30.0.0/16", "fd00:30::/32"} {
		s.Neighbour.Route(netip.MustParsePrefix(subnets), s.Host)
		s.Outside.Route(netip.MustParsePrefix(subnets), s.Host)
	}
}

// twoOn makes network web with both families and two containers, of which c1 publishes
// its port 80 as 8080.
func (s *site) twoOn(options ...string) {
	s.t.Helper()
	args := []string{"--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	s.network("web", args...)
	s.Run("c1", "--network", "web", "-p", "8080:80")
	s.Run("c2", "--network", "web")
}

// drops shows that it is our rules with such a comment that drop what is asked in vain.
func (s *site) drops(comment string, ask func()) {
	s.t.Helper()
	before := s.dropped(comment)
	ask()
	if s.dropped(comment) == before {
		s.t.Errorf("%q dropped nothing of it", comment)
	}
}

// dropped is how many packets the rules have dropped whose comment begins so, with
// either firewall.
func (s *site) dropped(comment string) (packets int) {
	s.t.Helper()
	for pattern, commands := range map[string][]string{
		`packets (\d+) bytes \d+ drop comment "` + comment:                                   {"nft list ruleset"},
		`\[(\d+):\d+\] -A DRAWBRIDGE-.* "drawbridge [0-9a-f]{12}: ` + comment + `.* -j DROP`: {"iptables-nft-save -c", "ip6tables-nft-save -c"},
	} {
		for _, command := range commands {
			for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(s.Host.Run("sh", "-c", command), -1) {
				n, err := strconv.Atoi(m[1])
				if err != nil {
					s.t.Fatal(err)
				}
				packets += n
			}
		}
	}
	return packets
}

// TestEngineContainersMayBeKeptApart runs with frames within a bridge shown to the
// firewall of layer 3 and, as on most hosts, not.
func TestEngineContainersMayBeKeptApart(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.twoOn(bridgeKey + "enable_icc=false")
		s.Run("c3", "--network", "web", "--cap-add", "NET_ADMIN")
		s.in("c3", "ip", "route", "add", s.address("c1", "web")+"/32", "via", "172.30.1.1")
		s.in("c3", "ip", "-6", "route", "add", s.address6("c1", "web")+"/128", "via", "fd00:30:1::1")
		found := s.bridgedFrames()
		for _, shown := range []string{"1", "0"} {
			s.showBridgedFrames(shown)
			s.settled()
			dropsFrames := s.drops
			if shown == "0" && allWithIptables() {
				dropsFrames = func(_ string, ask func()) { ask() } // by a port's flag, which counts nothing
			}
			for name, f := range both {
				c1, c2 := f.address(s, "c1", "web"), f.address(s, "c2", "web")
				const apart = "containers that are kept apart"
				dropsFrames(apart, func() { s.MustNotReach("c2", "tcp", join(c1, "80"), hello.Drop) })
				dropsFrames(apart, func() { s.MustNotReach("c1", "udp", join(c2, "80"), hello.Drop) })
				// Not even around, through the gateway.
				s.drops(apart, func() { s.MustNotReach("c3", "tcp", join(c1, "80"), hello.Drop) })
				dropsFrames(apart, func() {
					if out, err := s.TryDocker("exec", "c2", "ping", "-c", "1", "-W", "1", c1); err == nil {
						s.t.Errorf("c2 pings c1: %s", out)
					}
				})
				for _, client := range []string{"c1", "c2"} {
					got := s.MustReach(client, "tcp", join(f.host(s), "8080"), "c1")
					s.sees(name+" published port, from a container", got.Client, f.gateway)
				}
				s.MustReach("c2", "tcp", join(f.internet, "80"), "outside")
				s.Outside.MustReach("tcp", join(f.host(s), "8080"), "c1")
				s.Host.MustReach("tcp", join(c2, "80"), "c2")
			}
		}
		s.showBridgedFrames(found)
	})
}

// bridgedFrames is "1" if br_netfilter shows them, for both families alike here.
func (s *site) bridgedFrames() string {
	s.t.Helper()
	return s.Host.Sysctl("net/bridge/bridge-nf-call-iptables")
}

func (s *site) showBridgedFrames(value string) {
	s.t.Helper()
	s.Host.Set("net/bridge/bridge-nf-call-iptables", value)
	s.Host.Set("net/bridge/bridge-nf-call-ip6tables", value)
}

// mode is what a gateway mode makes of a container, in one family.
type mode struct {
	published, unpublished bool // its ports are reached by its own address
	pinged                 bool // and it answers ping there
	onHost                 bool // its published port is reached by the host's address
	shown                  bool // the machines that it asks see its own address
}

var modes = map[string]mode{
	"nat":             {onHost: true},
	"nat-unprotected": {published: true, unpublished: true, pinged: true, onHost: true},
	"routed":          {published: true, pinged: true, shown: true},
}

func TestEngineGatewayModesSayHowOthersReachContainers(t *testing.T) {
	eachEngineAfter(t, warmUpIPv6, func(s *site) {
		s.neighboursKnowTheWay()
		s.dockersOwn("docker")
		s.Run("k1", "--network", "docker")
		for i, row := range []struct{ mode4, mode6 string }{
			{"nat", "nat"},
			{"nat-unprotected", "nat-unprotected"},
			{"routed", "routed"},
			{"nat", "routed"},
			{"nat-unprotected", "routed"},
			{"routed", "nat"},
		} {
			number := strconv.Itoa(i + 1)
			web, c := "web"+number, "c"+number
			s.network(web, "--ipv6", "--subnet", "172.30."+number+".0/24", "--subnet", "fd00:30:"+number+"::/64",
				"-o", bridgeKey+"gateway_mode_ipv4="+row.mode4, "-o", bridgeKey+"gateway_mode_ipv6="+row.mode6)
			s.Run(c, "--network", web, "-p", "808"+number+":80")
			s.serves81(c)
			for family, mode := range map[string]string{"IPv4": row.mode4, "IPv6": row.mode6} {
				s.t.Logf("%s, mode %s, of %s and %s", family, mode, row.mode4, row.mode6)
				s.isOpen(c, web, "808"+number, both[family], modes[mode])
			}
		}
	})
}

// serves81 has a container serve a port that it does not publish.
func (s *site) serves81(container string) {
	s.t.Helper()
	s.Docker("exec", "-d", container, "peer", "serve", "tcp:81")
	lab.Until(s.t, container+" serves port 81", func() error {
		_, err := s.Ask(container, "tcp", "127.0.0.1:81")
		return err
	})
}

// isOpen asks a container on a network from outside, and from a network of Docker's,
// and has it ask outside.
func (s *site) isOpen(container, network, hostPort string, f family, want mode) {
	s.t.Helper()
	own := f.address(s, container, network)
	for port, open := range map[string]bool{"80": want.published, "81": want.unpublished} {
		if at := join(own, port); open {
			s.sees("by its own address", s.Outside.MustReach("tcp", at, container), f.outside(s))
			s.MustReach("k1", "tcp", at, container)
		} else {
			s.drops("not published", func() { s.Outside.MustNotReach("tcp", at, hello.Drop) })
			s.drops("not published", func() { s.MustNotReach("k1", "tcp", at, hello.Drop) })
		}
	}
	if want.pinged {
		s.Outside.MustPing(own)
	} else {
		s.drops("not published", func() { s.Outside.MustNotPing(own) })
	}
	seen := f.host(s)
	if want.shown {
		seen = own
	}
	s.sees(container+" from outside", s.MustReach(container, "tcp", join(f.internet, "80"), "outside").Client, seen)
	if want.onHost {
		s.Outside.MustReach("tcp", join(f.host(s), hostPort), container)
	} else {
		s.Outside.MustNotReach("tcp", join(f.host(s), hostPort), hello.Refuse)
	}
}

// TestEngineOneFamilyMayBeIsolated has the host among the containers in the other.
func TestEngineOneFamilyMayBeIsolated(t *testing.T) {
	eachEngine(t, func(s *site) {
		for isolated, nat := range map[string]string{"4": "6", "6": "4"} {
			s.network("cell", "--internal", "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64",
				"-o", bridgeKey+"gateway_mode_ipv"+isolated+"=isolated")
			s.Run("c1", "--network", "cell")
			s.Run("c2", "--network", "cell")
			for _, f := range both {
				s.MustReach("c1", "tcp", join(f.address(s, "c2", "cell"), "80"), "c2")
			}
			if out := s.Host.Run("ip", "-"+isolated, "-o", "addr", "show", "dev", s.bridge("cell")); out != "" {
				s.t.Errorf("the host has an address among isolated containers: %s", out)
			}
			f := both["IPv"+nat]
			s.sees("the host's", s.Host.MustReach("tcp", join(f.address(s, "c1", "cell"), "80"), "c1"), f.gateway)
			s.removeAll()
		}
	})
}

// wire0 puts the neighbour on a wire of its own, by which it sends what is for these
// subnets to the host, while the machine outside comes by the uplink.
func (s *site) wire0(subnets4, subnets6 string) {
	s.t.Helper()
	s.Outside.Route(netip.MustParsePrefix(subnets4), s.Host)
	s.Outside.Route(netip.MustParsePrefix(subnets6), s.Host)
	s.Cable("wire0", s.Host, s.Neighbour)
	for number, h := range map[string]*lab.Host{"1": s.Host, "2": s.Neighbour} {
		h.Run("ip", "link", "set", "wire0", "up")
		h.Run("ip", "addr", "add", "10.9.0."+number+"/24", "dev", "wire0")
		h.Run("ip", "addr", "add", "fd09::"+number+"/64", "dev", "wire0", "nodad")
	}
	s.Neighbour.Run("ip", "route", "add", subnets4, "via", "10.9.0.1")
	s.Neighbour.Run("ip", "route", "add", subnets6, "via", "fd09::1")
}

func TestEngineTrustedInterfacesReachWhatIsPublished(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.wire0("172.30.0.0/16", "fd00:30::/32")
		s.twoOn(bridgeKey + "trusted_host_interfaces=none0:wire0")
		s.Run("c3", "--network", "web", "-p", "127.0.0.1:8083:80") // on whichever address
		s.serves81("c1")
		s.settled()
		for name, client := range map[string]string{"IPv4": "10.9.0.2", "IPv6": "fd09::2"} {
			c1, c2 := both[name].address(s, "c1", "web"), both[name].address(s, "c2", "web")
			s.sees(name, s.Neighbour.MustReach("tcp", join(c1, "80"), "c1"), client)
			for _, at := range []string{join(c1, "81"), join(c2, "80")} {
				s.drops("not published", func() { s.Neighbour.MustNotReach("tcp", at, hello.Drop) })
			}
			s.drops("not published", func() { s.Outside.MustNotReach("tcp", join(c1, "80"), hello.Drop) })
		}
		s.Neighbour.MustReach("tcp", join(s.address("c3", "web"), "80"), "c3")
		s.drops("not published", func() { s.Neighbour.MustNotReach("tcp", join(s.address6("c3", "web"), "80"), hello.Drop) })
		s.Host.Run("ip", "link", "del", "wire0")
	})
}
