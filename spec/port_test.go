package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

func TestJoinPorts(t *testing.T) {
	for _, c := range []struct {
		name      string
		in        []string
		want      []string
		otherwise string
	}{
		{"nothing", nil, nil, ""},
		{"a port given twice is one", []string{"*:80->80/tcp", "*:80->80/tcp"}, []string{"*:80->80/tcp"}, ""},
		{"neighbours join", []string{"*:81->81/udp", "*:80->80/udp"}, []string{"*:80-81->80-81/udp"}, ""},
		{"a gap parts", []string{"*:80->80/tcp", "*:82->82/tcp"}, []string{"*:80->80/tcp", "*:82->82/tcp"}, ""},
		{"shifted neighbours join", []string{"*:8081->81/tcp", "*:8080->80/tcp"}, []string{"*:8080-8081->80-81/tcp"}, ""},
		{"neighbours that lead to strangers stay apart", []string{"*:8080->80/tcp", "*:8081->90/tcp"}, []string{"*:8080->80/tcp", "*:8081->90/tcp"}, ""},
		{"neighbours of different protocols stay apart", []string{"*:80->80/tcp", "*:81->81/udp"}, []string{"*:80->80/tcp", "*:81->81/udp"}, ""},
		{"neighbours of different addresses stay apart", []string{"10.0.0.1:80->80/tcp", "10.0.0.2:81->81/tcp"}, []string{"10.0.0.1:80->80/tcp", "10.0.0.2:81->81/tcp"}, ""},
		{"the last port is no neighbour of the first", []string{"*:65535->65535/tcp", "*:1->1/tcp"}, []string{"*:1->1/tcp", "*:65535->65535/tcp"}, ""},
		{"one port of the host leads to one port", []string{"*:80->80/tcp", "*:80->81/tcp"}, nil, "*:80->80/tcp"},
		{"a port on all addresses overlaps that on one", []string{"10.0.0.1:80->80/tcp", "*:80->80/tcp"}, nil, "overlap"},
		{"a port inside a range overlaps", []string{"*:80->80/tcp", "*:81->81/tcp", "*:82->82/tcp", "10.0.0.1:81->9/tcp"}, nil, "*:80-82->80-82/tcp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ports []spec.Port
			for _, text := range c.in {
				ports = append(ports, port(t, text))
			}
			joined, err := spec.JoinPorts(ports)
			if c.otherwise != "" {
				if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), c.otherwise) {
					t.Errorf("want a refusal with %q, got %v", c.otherwise, err)
				}
				return
			}
			var got []string
			for _, p := range joined {
				got = append(got, p.String())
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestThousandShuffledPortsAreOneRange(t *testing.T) {
	var ports []spec.Port
	for i := range uint16(1000) {
		ports = append(ports, spec.Port{Proto: spec.UDP, HostPort: 9000 + i, ContainerPort: 9000 + i, Count: 1})
	}
	rand.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
	joined, err := spec.JoinPorts(ports)
	if err != nil || len(joined) != 1 || joined[0].String() != "*:9000-9999->9000-9999/udp" {
		t.Errorf("got %v, %v", joined, err)
	}
}

func TestEveryPortOfBothProtocolsIsTwoRanges(t *testing.T) {
	var entries []string
	for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
		for number := 1; number <= 65535; number++ {
			entries = append(entries, fmt.Sprintf(`{"Proto":%d,"Port":%d,"HostPort":%d,"HostPortEnd":%d}`, proto, number, number, number))
		}
	}
	o := spec.Options{"com.docker.network.portmap": json.RawMessage("[" + strings.Join(entries, ",") + "]")}
	m, err := o.PortMap(&spec.Network{})
	ports := m.Ports
	if err != nil || len(ports) != 2 || ports[0].Count != 65535 || ports[1].Last() != 65535 {
		t.Errorf("got %v, %v", ports, err)
	}
}

func TestAPortMapSaysWhatEachGatewayModeMakesOfIt(t *testing.T) {
	both := []spec.Pool{{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00:1::/64")}}
	for _, c := range []struct {
		promise, binding string
		network          spec.Network
		ports, open      string
	}{
		{"both families are translated", `"HostPort":8080`, spec.Network{Pools: both}, "[*:8080->80/tcp]", "[]"},
		{"IPv6 is routed", `"HostPort":8080`, spec.Network{Pools: both, Mode6: spec.Routed}, "[0.0.0.0:8080->80/tcp]", "[[::]:80->80/tcp]"},
		{"IPv4 is routed", `"HostPort":8080`, spec.Network{Pools: both, Mode4: spec.Routed}, "[[::]:8080->80/tcp]", "[0.0.0.0:80->80/tcp]"},
		{"both are routed, whatever the host's port", `"HostPort":0`, spec.Network{Pools: both, Mode4: spec.Routed, Mode6: spec.Routed}, "[]", "[0.0.0.0:80->80/tcp [::]:80->80/tcp]"},
		{"an address of the host decides on the family", `"HostPort":8080,"HostIP":"192.0.2.1"`, spec.Network{Pools: both, Mode4: spec.Routed}, "[]", "[0.0.0.0:80->80/tcp]"},
		{"an address of the host that is not translated may be any", `"HostPort":8080,"HostIP":"::1"`, spec.Network{Pools: both, Mode6: spec.Routed}, "[]", "[[::]:80->80/tcp]"},
		{"the only family is routed", `"HostPort":0`, spec.Network{Pools: both[1:], Mode6: spec.Routed}, "[]", "[[::]:80->80/tcp]"},
		{"the network's own address of the host", `"HostPort":8080`, spec.Network{Pools: both, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[127.0.0.1:8080->80/tcp]", "[]"},
		{"the network's own address for an ephemeral port", `"HostPort":0`, spec.Network{Pools: both, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[127.0.0.1:0->80/tcp]", "[]"},
		{"one of a range in the family that is not routed", `"HostPort":8080,"HostPortEnd":8090`, spec.Network{Pools: both, Mode6: spec.Routed}, "[0.0.0.0:8080->80/tcp]", "[[::]:80->80/tcp]"},
		{"a range of one is that port", `"HostPort":8080,"HostPortEnd":8080`, spec.Network{Pools: both}, "[*:8080->80/tcp]", "[]"},
		{"the network's own address opens its family alone", `"HostPort":8080`, spec.Network{Pools: both, Mode4: spec.Routed, Mode6: spec.Routed, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[]", "[0.0.0.0:80->80/tcp]"},
		{"the network's own address of the family that is not routed", `"HostPort":8080`, spec.Network{Pools: both, Mode6: spec.Routed, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[127.0.0.1:8080->80/tcp]", "[]"},
		{"a named address goes before the network's", `"HostPort":8080,"HostIP":"192.0.2.1"`, spec.Network{Pools: both, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[192.0.2.1:8080->80/tcp]", "[]"},
		{"every address that is named goes before the network's", `"HostPort":8080,"HostIP":"0.0.0.0"`, spec.Network{Pools: both, HostBinding: netip.MustParseAddr("127.0.0.1")}, "[0.0.0.0:8080->80/tcp]", "[]"},
	} {
		t.Run(c.promise, func(t *testing.T) {
			o := spec.Options{"com.docker.network.portmap": json.RawMessage(`[{"Proto":6,"Port":80,` + c.binding + `}]`)}
			m, err := o.PortMap(&c.network)
			if err != nil || fmt.Sprint(m.Published()) != c.ports || fmt.Sprint(m.Open) != c.open {
				t.Errorf("ports %v, open %v, %v; want %s and %s", m.Ports, m.Open, err, c.ports, c.open)
			}
		})
	}
}

func TestTheLoopbackOfIPv6IsAnAddressLikeAnyOther(t *testing.T) {
	pools := []spec.Pool{{Prefix: netip.MustParsePrefix("fd00:1::/64")}}
	for binding, n := range map[string]*spec.Network{
		`"HostIP":"::1"`: {Pools: pools},
		`"HostIP":""`:    {Pools: pools, HostBinding: netip.IPv6Loopback()},
	} {
		o := spec.Options{"com.docker.network.portmap": json.RawMessage(`[{"Proto":6,"Port":80,"HostPort":8080,` + binding + `}]`)}
		m, err := o.PortMap(n)
		if err != nil || m.Refused != nil || fmt.Sprint(m.Ports) != "[[::1]:8080->80/tcp]" {
			t.Errorf("%s, binding %s: got %v, %v, %v", binding, n.HostBinding, m.Ports, m.Refused, err)
		}
	}
}

func TestWhatIsOpenNeedsNoPortOfTheHost(t *testing.T) {
	n := &spec.Network{Pools: []spec.Pool{{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00:1::/64")}}, Mode4: spec.Routed}
	o := spec.Options{"com.docker.network.portmap": json.RawMessage(`[{"Proto":6,"Port":80,"HostPort":0},{"Proto":6,"Port":80,"HostIP":"fe80::1"}]`)}
	m, err := o.PortMap(n)
	if err != nil || fmt.Sprint(m.Open) != "[0.0.0.0:80->80/tcp]" || len(m.Ports) > 0 || !errors.Is(m.Refused, spec.ErrInvalid) {
		t.Errorf("open %v, ports %v, refused %v, %v", m.Open, m.Ports, m.Refused, err)
	}
}

func TestAnAddressThatNothingCanBePublishedOnIsRefusedWithARemedy(t *testing.T) {
	for binding, want := range map[string][]string{
		`"HostIP":"fe80::1"`:                {"link-local", "-p 8080:80", "[::]:8080:80"},
		`"HostIP":"fe80::1%eth0"`:           {"link-local", "-p 8080:80", "without a zone"},
		`"HostIP":"2001:db8::1%eth0"`:       {"without a zone"},
		`"HostIP":"ff02::1"`:                {"multicast"},
		`"HostIP":"224.0.0.1"`:              {"multicast"},
		`"HostIP":"255.255.255.255"`:        {"broadcast"},
		`"HostIP":"::ffff:192.0.2.1"`:       {"as IPv4, 192.0.2.1"},
		`"HostIP":"::ffff:0.0.0.0"`:         {"as IPv4, 0.0.0.0"},
		`"HostIP":"10.0.0.1/24"`:            {"want an IPv4 or IPv6 address"},
		`"HostIP":"[::1]"`:                  {"want an IPv4 or IPv6 address"},
		`"HostPort":0,"HostPortEnd":9`:      {"host ports 0-9", "1 to 65535"},
		`"HostPort":9,"HostPortEnd":8`:      {"host ports 9-8", "1 to 65535"},
		`"HostPort":9,"HostPortEnd":100000`: {"host ports 9-100000", "1 to 65535"},
		`"HostPort":-1`:                     {"host port -1", "1 to 65535"},
		`"Port":-1`:                         {"container port -1", "1 to 65535"},
	} {
		o := spec.Options{"com.docker.network.portmap": json.RawMessage(`[{"Proto":6,"Port":80,` + binding + `}]`)}
		m, err := o.PortMap(&spec.Network{})
		err = errors.Join(err, m.Refused)
		for _, text := range want {
			if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: refusal lacks %q: %v", binding, text, err)
			}
		}
	}
}

func TestTheGatewayForIPv4NeedsNoAddressOfIPv6(t *testing.T) {
	o := spec.Options{
		"com.docker.network.portmap":                      json.RawMessage(`[{"Proto":6,"Port":80,"HostIP":"::1","HostPort":8080},{"Proto":6,"Port":80,"HostPort":8080}]`),
		"com.docker.network.driver.private.no_proxy_6to4": json.RawMessage("true"),
	}
	m, err := o.PortMap(&spec.Network{Pools: []spec.Pool{{Prefix: netip.MustParsePrefix("10.1.0.0/24")}}})
	if err != nil || m.Refused != nil || fmt.Sprint(m.Ports) != "[*:8080->80/tcp]" {
		t.Errorf("ports %v, refused %v, %v", m.Ports, m.Refused, err)
	}
}

func FuzzPortMap(f *testing.F) {
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[{}]`, `[null]`, `[{"Proto":6,"Port":80,"HostPort":8080,"HostPortEnd":8080}]`,
		`[{"Proto":17,"IP":"","Port":53,"HostIP":"fd00::9","HostPort":53,"HostPortEnd":53},{"Proto":17,"Port":54,"HostIP":"fd00::9","HostPort":54}]`,
		`[{"Proto":132,"Port":1}]`, `[{"Proto":6,"Port":1e9}]`, `[{"Proto":6,"Port":65535,"HostPort":65535},{"Proto":6,"Port":1,"HostPort":1}]`,
		`[{"Proto":6,"Port":80},{"Proto":6,"Port":80,"HostPort":8000,"HostPortEnd":8010},{"Proto":6,"Port":80,"HostIP":"::1"}]`,
		`[{"Proto":6,"Port":1,"HostPort":1,"HostIP":"::ffff:1.2.3.4"}]`, `[{"Proto":6,"Port":1,"HostPort":1,"HostIP":"fe80::1%eth0"}]`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, onlyIPv4 bool) {
		o := spec.Options{
			"com.docker.network.portmap":                      json.RawMessage(text),
			"com.docker.network.driver.private.no_proxy_6to4": json.RawMessage(fmt.Sprint(onlyIPv4)),
		}
		m, err := o.PortMap(&spec.Network{})
		ports := m.Ports
		if err == nil && m.OnlyIPv4 != onlyIPv4 {
			t.Error("the sign that there is another gateway is lost")
		}
		if err != nil {
			if !errors.Is(err, spec.ErrInvalid) || len(err.Error()) > 1024 {
				t.Errorf("error of %d bytes: %v", len(err.Error()), err)
			}
			return
		}
		for _, w := range m.Wishes {
			if w.HostPort != 0 || w.Count != 1 || w.ContainerPort == 0 || w.Range != (spec.PortRange{}) && (w.Range.First == 0 || w.Range.First >= w.Range.Last) {
				t.Errorf("wish %+v", w)
			}
		}
		for i, p := range ports {
			if p.Count == 0 || p.HostPort == 0 || p.ContainerPort == 0 || p.Last() < p.HostPort || p.ContainerPort+p.Count-1 < p.ContainerPort {
				t.Errorf("port %+v", p)
			}
			if p.Host.Is4In6() || p.Host.Zone() != "" {
				t.Errorf("host address %v", p.Host)
			}
			for _, q := range ports[:i] {
				if p.Count < 100 && q.Count < 100 && overlap(p, q) {
					t.Errorf("ports %s and %s overlap", q, p)
				}
			}
		}
	})
}
