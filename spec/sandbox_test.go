package spec_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// twoGateways is one sandbox with an endpoint on each of two networks.
func twoGateways(t *testing.T) *spec.State {
	t.Helper()
	s := &spec.State{}
	for i, n := range []spec.ID{web, db} {
		pools := []spec.Pool{{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i+1))}, {Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i+1))}}
		ep := &spec.Endpoint{
			ID: c1, IPv4: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.2/24", i+1)), IPv6: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::2/64", i+1)),
		}
		ep.ID = []spec.ID{c1, c2}[i]
		for _, err := range []error{s.AddNetwork(&spec.Network{ID: n, Pools: pools}), s.AddEndpoint(n, ep), s.Join(n, ep.ID, "/run/docker/netns/1")} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// publishes is a call of Docker's for one of the two.
type publishes struct {
	network, endpoint spec.ID
	onlyIPv4          bool
}

func TestTheGatewaysOfOneSandboxShareItsPublishedPorts(t *testing.T) {
	ports := []spec.Port{{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}}
	for _, c := range []struct {
		promise       string
		calls         []publishes
		first, second string
	}{
		{"the gateway for IPv4 is told first", []publishes{{web, c1, true}, {db, c2, false}}, "[0.0.0.0:8080->80/tcp]", "[[::]:8080->80/tcp]"},
		{"the gateway for IPv6 is told first", []publishes{{db, c2, false}, {web, c1, true}}, "[0.0.0.0:8080->80/tcp]", "[[::]:8080->80/tcp]"},
		{"a repeat changes nothing", []publishes{{db, c2, false}, {web, c1, true}, {db, c2, false}, {web, c1, true}}, "[0.0.0.0:8080->80/tcp]", "[[::]:8080->80/tcp]"},
		{"the gateway for IPv6 is one for both by now", []publishes{{web, c1, true}, {db, c2, false}, {web, c1, false}}, "[*:8080->80/tcp]", "[]"},
		{"another becomes the gateway before the first is told", []publishes{{web, c1, false}, {db, c2, false}}, "[]", "[*:8080->80/tcp]"},
	} {
		t.Run(c.promise, func(t *testing.T) {
			s := twoGateways(t)
			for _, call := range c.calls {
				if err := s.Publish(call.network, call.endpoint, ports, call.onlyIPv4); err != nil {
					t.Fatal(err)
				}
			}
			_, first, _ := s.Endpoint(web, c1)
			_, second, _ := s.Endpoint(db, c2)
			if fmt.Sprint(first.Ports) != c.first || fmt.Sprint(second.Ports) != c.second {
				t.Errorf("%v and %v, want %s and %s", first.Ports, second.Ports, c.first, c.second)
			}
			s.Leave(web, c1)
			if err := s.Publish(db, c2, ports, false); err != nil {
				t.Error(err)
			}
			if _, second, _ = s.Endpoint(db, c2); fmt.Sprint(second.Ports) != "[*:8080->80/tcp]" {
				t.Errorf("alone: %v", second.Ports)
			}
		})
	}
}

// Where neither was revoked, each of them may have something that a third one wants.
func TestEveryGatewayMakesRoomForWhoBecomesTheOnlyOne(t *testing.T) {
	s := twoGateways(t)
	port := func(number, count uint16) []spec.Port {
		return []spec.Port{{Proto: spec.TCP, HostPort: number, ContainerPort: number, Count: count}}
	}
	third := &spec.Endpoint{ID: c3, IPv4: netip.MustParsePrefix("10.1.0.3/24"), IPv6: netip.MustParsePrefix("fd00:1::3/64")}
	for _, err := range []error{
		s.AddEndpoint(web, third), s.Join(web, c3, "/run/docker/netns/1"),
		s.Publish(web, c1, port(8000, 1), false), s.Publish(db, c2, port(8001, 1), false), s.Publish(web, c3, port(8000, 2), false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, first, _ := s.Endpoint(web, c1)
	_, second, _ := s.Endpoint(db, c2)
	_, third, _ = s.Endpoint(web, c3)
	if fmt.Sprint(first.Ports, second.Ports, third.Ports) != "[] [] [*:8000-8001->8000-8001/tcp]" {
		t.Errorf("%v, %v and %v", first.Ports, second.Ports, third.Ports)
	}
}

// An engine since 29 tells the first nothing when the second joins: it is what it was.
func TestAGatewayWithoutIPv6LeavesThatToAnother(t *testing.T) {
	s := &spec.State{}
	ports := []spec.Port{{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}}
	pool4, pool6 := spec.Pool{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, spec.Pool{Prefix: netip.MustParsePrefix("fd00:2::/64")}
	for _, err := range []error{
		s.AddNetwork(&spec.Network{ID: web, Pools: []spec.Pool{pool4}}),
		s.AddNetwork(&spec.Network{ID: db, Pools: []spec.Pool{pool6}}),
		s.AddEndpoint(web, &spec.Endpoint{ID: c1, IPv4: netip.MustParsePrefix("10.1.0.2/24")}),
		s.AddEndpoint(db, &spec.Endpoint{ID: c2, IPv6: netip.MustParsePrefix("fd00:2::2/64")}),
		s.Join(web, c1, "/run/docker/netns/1"),
		s.Publish(web, c1, ports, false),
		s.Join(db, c2, "/run/docker/netns/1"),
		s.Publish(db, c2, ports, false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, first, _ := s.Endpoint(web, c1)
	_, second, _ := s.Endpoint(db, c2)
	if fmt.Sprint(first.Ports, second.Ports) != "[0.0.0.0:8080->80/tcp] [[::]:8080->80/tcp]" {
		t.Errorf("%v and %v", first.Ports, second.Ports)
	}
}

func TestAnotherSandboxIsRefusedThePort(t *testing.T) {
	s := twoGateways(t)
	ports := []spec.Port{{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1}}
	s.Leave(db, c2)
	if err := s.Join(db, c2, "/run/docker/netns/2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(web, c1, ports, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(db, c2, ports, false); err == nil {
		t.Error("two sandboxes have one port")
	}
}

func TestABridgeThatHasANameIsOneNetworks(t *testing.T) {
	s := &spec.State{}
	if err := s.AddNetwork(&spec.Network{ID: web, Bridge: "br-lan"}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddNetwork(&spec.Network{ID: db, Bridge: "br-lan"}); err == nil {
		t.Error("two networks have one bridge")
	}
	if err := s.AddNetwork(&spec.Network{ID: db, Bridge: "br-dmz"}); err != nil {
		t.Error(err)
	}
}

func TestTheGatewayOfAContainerIsThatOfItsSubnet(t *testing.T) {
	pool := func(prefix, gateway, other string) spec.Pool {
		p := spec.Pool{Prefix: netip.MustParsePrefix(prefix), Gateway: netip.MustParseAddr(gateway)}
		if other != "" {
			p.DefaultGateway = netip.MustParseAddr(other)
		}
		return p
	}
	n := spec.Network{Pools: []spec.Pool{pool("10.1.0.0/24", "10.1.0.1", ""), pool("10.2.0.0/24", "10.2.0.1", "10.2.0.254"), pool("fe80::/64", "fe80::1", "")}}
	for addr, want := range map[string]string{"10.1.0.9": "10.1.0.1", "10.2.0.9": "10.2.0.254", "fe80::9": "fe80::1"} {
		if got := n.GatewayOf(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("%s has the gateway %s, want %s", addr, got, want)
		}
	}
	n.Internal = true
	if got := n.GatewayOf(netip.MustParseAddr("10.1.0.9")); got.IsValid() {
		t.Errorf("a container of an internal network has the gateway %s", got)
	}
}
