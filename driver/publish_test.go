package driver_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// TestAGatewayForIPv6AlonePublishesForIPv6 has a container on a network of Docker's and
// on one of ours. Engines since 29 ask the same of our endpoint whether it is the gateway
// for both families or for IPv6 alone.
func TestAGatewayForIPv6AlonePublishesForIPv6(t *testing.T) {
	r := newRig(t)
	r.dual()
	ask := func(want string) {
		t.Helper()
		r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80), binding(6, "192.0.2.1", 8081, 81))))
		if got := r.published(net1, ep1); got != want {
			t.Errorf("published %s, want %s", got, want)
		}
	}
	const key = "/var/run/docker/netns/1eee51bd70de"
	r.host.GoesBy(key, netip.MustParseAddr("10.1.0.1"))
	ask("[*:8080->80/tcp 192.0.2.1:8081->81/tcp]")
	ask("[*:8080->80/tcp 192.0.2.1:8081->81/tcp]") // as after an answer that was lost
	r.host.GoesBy(key, netip.MustParseAddr("172.31.4.1"))
	ask("[[::]:8080->80/tcp]")
	r.host.GoesBy(key, netip.MustParseAddr("10.1.0.1"))
	ask("[*:8080->80/tcp 192.0.2.1:8081->81/tcp]")
}

// TestEphemeralPortsOfAGatewayForIPv6Alone has no clash that would tell: any other number
// would do.
func TestEphemeralPortsOfAGatewayForIPv6Alone(t *testing.T) {
	r := newRig(t)
	r.dual()
	r.host.GoesBy("/var/run/docker/netns/1eee51bd70de", netip.MustParseAddr("172.31.4.1"))
	r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 0, 80), oneOf(8000, 8001, 81))))
	if got, want := lettered(r.published(net1, ep1)), "[[::]:8000->81/tcp [::]:A->80/tcp]"; got != want {
		t.Errorf("published %s, want %s", got, want)
	}
}

// lettered has letters for the ephemeral ports of a text: which they are is chance.
func lettered(text string) string {
	letters := map[string]string{}
	return regexp.MustCompile(`\b327(68|69|70|71)\b`).ReplaceAllStringFunc(text, func(number string) string {
		if letters[number] == "" {
			letters[number] = string(rune('A' + len(letters)))
		}
		return letters[number]
	})
}

func TestNumbersStayUntilTheyAreRevoked(t *testing.T) {
	for _, end := range []string{revoke, leave, deleteEndpoint} {
		r := newRig(t)
		r.dual()
		asked := idsBody(net1, ep1, portMap(binding(6, "", 0, 80), binding(6, "127.0.0.1", 0, 81), binding(6, "::1", 0, 81), oneOf(8000, 8001, 82)))
		r.must(program, asked)
		first := r.published(net1, ep1)
		if got, want := lettered(first), "[*:8000->82/tcp *:A->80/tcp 127.0.0.1:B->81/tcp [::1]:B->81/tcp]"; got != want {
			t.Errorf("published %s, want %s", got, want)
		}
		r.must(program, asked)
		if again := r.published(net1, ep1); again != first {
			t.Errorf("published %s, then %s", first, again)
		}
		host := r.onHost()
		r.ports.Take(spec.Port{Proto: spec.UDP, HostPort: 32768, Count: 4})
		r.refused(program, idsBody(net1, ep1, portMap(binding(6, "", 0, 80), binding(17, "", 0, 53))), "an ephemeral port for 53/udp", "none of 32768-32771 is free")
		if got := r.onHost(); got != host {
			t.Errorf("a refusal left:\n%s\nwant\n%s", got, host)
		}
		r.must(end, idsBody(net1, ep1, ""))
		r.must(end, idsBody(net1, ep1, ""))
		if left := r.onHost(); strings.Contains(left, "/tcp") {
			t.Errorf("%s left:\n%s", end, left)
		}
	}
}

func TestAWildcardAndOneAddressOnOnePortAreRefusedWhicheverComesFirst(t *testing.T) {
	all, one := binding(6, "", 8080, 80), binding(6, "127.0.0.2", 8080, 81)
	for _, order := range [][2]string{{all, one}, {one, all}} {
		r := newRig(t)
		r.dual()
		r.must(createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24,fd00:1::3/64", "", ""))
		r.must(join, idsBody(net1, ep2, otherSandbox))
		r.refused(program, idsBody(net1, ep1, portMap(order[0], order[1])), "*:8080->80/tcp", "127.0.0.2:8080->81/tcp", "overlap")
		r.must(program, idsBody(net1, ep1, portMap(order[0])))
		r.refused(program, idsBody(net1, ep2, portMap(order[1])), "*:8080->80/tcp", "127.0.0.2:8080->81/tcp", "published by endpoint e1e1e1e1e1e1 of network 1a1a1a1a1a1a")
	}
}

// TestADeadEndpointMakesRoomInARange has an engine die, which leaves two endpoints behind,
// of which one is still in use.
func TestADeadEndpointMakesRoomInARange(t *testing.T) {
	r := newRig(t)
	r.dual()
	r.must(program, idsBody(net1, ep1, portMap(oneOf(8100, 8101, 80))))
	r.must(createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24,fd00:1::3/64", "", ""))
	r.must(join, idsBody(net1, ep2, otherSandbox))
	r.must(program, idsBody(net1, ep2, portMap(oneOf(8100, 8101, 80))))
	r.restart()
	r.must(createEndpoint, endpointBody(net1, ep3, "10.1.0.4/24,fd00:1::4/64", "", ""))
	r.must(join, idsBody(net1, ep3, strings.Replace(sandbox, "1eee", "3eee", 1)))
	wish := idsBody(net1, ep3, portMap(oneOf(8100, 8101, 80)))
	r.refused(program, wish, "a port of 8100-8101 for 80/tcp", "endpoint e1e1e1e1e1e1", "endpoint e2e2e2e2e2e2")
	r.host.Delete("link dbve2e2e2e2e2e2")
	r.must(program, wish)
	if got, want := r.published(net1, ep3), "[*:8101->80/tcp]"; got != want {
		t.Errorf("published %s, want %s", got, want)
	}
}

func TestSCTPNeedsAFirewall(t *testing.T) {
	r := newRig(t)
	r.host.Become(plan.Host{IPv6: true, NoFirewall: true})
	r.restart()
	r.dual()
	for _, number := range []int{0, 8080} {
		r.refused(program, idsBody(net1, ep1, portMap(binding(132, "", number, 80))), "80/sctp", "without a firewall")
	}
	r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80))))
}

// TestPortsOfIPv6AreLeftToDockerInFrontOfIPv4 is about containers that Docker may give
// IPv6 besides.
func TestPortsOfIPv6AreLeftToDockerInFrontOfIPv4(t *testing.T) {
	for prefix, want := range map[string]string{
		"172.17.0.0/16": "[*:8080->80/tcp]",
		"fe80::/64":     "[*:8080->80/tcp]",
		"fd00:31::/64":  "[0.0.0.0:8080->80/tcp]",
	} {
		r := newRig(t)
		r.host.Become(plan.Host{IPv6: true, Engines: []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix(prefix)}}}})
		r.restart()
		r.must(createNetwork, networkBody(net1, "", pool4, ""))
		r.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "", ""))
		r.must(join, idsBody(net1, ep1, sandbox))
		r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80))))
		if got := r.published(net1, ep1); got != want {
			t.Errorf("beside %s: published %s, want %s", prefix, got, want)
		}
	}
}

// published are the ports of an endpoint.
func (r *rig) published(network, endpoint string) string {
	r.t.Helper()
	state := r.engine.Now().State
	_, ep, err := state.Endpoint(spec.ID(network), spec.ID(endpoint))
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprint(ep.Ports)
}
