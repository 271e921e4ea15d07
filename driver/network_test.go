package driver_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/ipam"
)

const (
	createNetwork  = "/NetworkDriver.CreateNetwork"
	deleteNetwork  = "/NetworkDriver.DeleteNetwork"
	createEndpoint = "/NetworkDriver.CreateEndpoint"
	deleteEndpoint = "/NetworkDriver.DeleteEndpoint"
	join           = "/NetworkDriver.Join"
	leave          = "/NetworkDriver.Leave"
	program        = "/NetworkDriver.ProgramExternalConnectivity"
	revoke         = "/NetworkDriver.RevokeExternalConnectivity"
	requestPool    = "/IpamDriver.RequestPool"
	releasePool    = "/IpamDriver.ReleasePool"
	requestAddress = "/IpamDriver.RequestAddress"
	releaseAddress = "/IpamDriver.ReleaseAddress"
)

// networkBody is a CreateNetwork request; options and data are JSON without the
// outer brackets.
func networkBody(id, options, ipv4, ipv6 string) string {
	return fmt.Sprintf(`{"NetworkID":%q,"Options":{%s},"IPv4Data":[%s],"IPv6Data":[%s]}`, id, options, ipv4, ipv6)
}

// endpointBody is a CreateEndpoint request; addrs is an IPv4 address and, behind a
// comma, one of IPv6.
func endpointBody(network, id, addrs, mac, options string) string {
	ipv4, ipv6, _ := strings.Cut(addrs, ",")
	return fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q,"AddressIPv6":%q,"MacAddress":%q},"Options":{%s}}`,
		network, id, ipv4, ipv6, mac, options)
}

func idsBody(network, id, rest string) string {
	return fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q%s}`, network, id, rest)
}

const (
	sandbox      = `,"SandboxKey":"/var/run/docker/netns/1eee51bd70de","Options":{}`
	otherSandbox = `,"SandboxKey":"/var/run/docker/netns/2eee51bd70de","Options":{}`
)

func portMap(bindings ...string) string {
	return `,"Options":{"com.docker.network.portmap":[` + strings.Join(bindings, ",") + `]}`
}

func binding(proto int, hostIP string, host, container int) string {
	return fmt.Sprintf(`{"Proto":%d,"IP":"","Port":%d,"HostIP":%q,"HostPort":%d,"HostPortEnd":%d}`, proto, container, hostIP, host, host)
}

// oneOf is a binding to any one of a range.
func oneOf(first, last, container int) string {
	return fmt.Sprintf(`{"Proto":6,"IP":"","Port":%d,"HostIP":"","HostPort":%d,"HostPortEnd":%d}`, container, first, last)
}

const (
	pool4 = `{"AddressSpace":"LocalDefault","Pool":"10.1.0.0/24","Gateway":"10.1.0.1/24"}`
	pool6 = `{"AddressSpace":"LocalDefault","Pool":"fd00:1::/64","Gateway":"fd00:1::1/64"}`
	ipv6  = `"com.docker.network.enable_ipv6":true`
)

// dual makes net1 with both families and ep1 on it, in a container.
func (r *rig) dual() {
	r.t.Helper()
	r.must(createNetwork, networkBody(net1, ipv6, pool4, pool6))
	r.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24,fd00:1::2/64", "", ""))
	r.must(join, idsBody(net1, ep1, sandbox))
}

func TestSameRequestTwiceGivesTheSameAnswer(t *testing.T) {
	r := newRig(t)
	for _, call := range []struct{ path, body string }{
		{"/Plugin.Activate", ""},
		{"/NetworkDriver.GetCapabilities", ""},
		{"/IpamDriver.GetCapabilities", "{}"},
		{"/IpamDriver.GetDefaultAddressSpaces", ""},
		{"/NetworkDriver.GwAllocCheck", `{"Options":{"com.docker.network.generic":{}}}`},
		{createNetwork, networkBody(net1, ipv6, pool4, pool6)},
		{createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24,fd00:1::2/64", "", `"com.docker.network.endpoint.ifname":"web9"`)},
		{join, idsBody(net1, ep1, sandbox)},
		{program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80), binding(17, "::", 53, 53)))},
		{"/NetworkDriver.EndpointOperInfo", idsBody(net1, ep1, "")},
		{revoke, idsBody(net1, ep1, "")},
		{leave, idsBody(net1, ep1, "")},
		{deleteEndpoint, idsBody(net1, ep1, "")},
		{deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1)},
	} {
		first := r.must(call.path, call.body)
		host, writes := r.onHost(), r.host.Writes()
		if again := r.must(call.path, call.body); again != first {
			t.Errorf("%s: first %s, then %s", call.path, first, again)
		}
		if r.onHost() != host || r.host.Writes() != writes {
			t.Errorf("%s: the second request changed the host", call.path)
		}
	}
	if left := r.onHost(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
}

func TestUnknownObjectsAreGoneAlready(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{leave, deleteEndpoint, revoke} {
		if got := r.must(path, idsBody(net1, ep1, "")); got != "{}" {
			t.Errorf("%s: %s", path, got)
		}
	}
	r.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1))
	r.must(releasePool, `{"PoolID":"10.9.0.0/24-AAAAAAAA"}`)
	r.must(releaseAddress, `{"PoolID":"10.9.0.0/24-AAAAAAAA","Address":"10.9.0.9"}`)
	if got := r.must("/NetworkDriver.EndpointOperInfo", idsBody(net1, ep1, "")); got != `{"Value":{}}` {
		t.Errorf("EndpointOperInfo of an unknown endpoint: %s", got)
	}
}

func TestJoinNamesTheGatewayOfThePoolThatTheAddressLiesIn(t *testing.T) {
	r := newRig(t)
	second := `{"Pool":"10.2.0.0/16","Gateway":"10.2.9.9/16"}`
	r.must(createNetwork, networkBody(net1, ipv6, pool4+","+second, pool6))
	r.must(createEndpoint, endpointBody(net1, ep1, "10.2.0.2/16,fd00:1::2/64", "", `"COM.Docker.network.endpoint.IFNAME":"web9"`))
	got := r.must(join, idsBody(net1, ep1, sandbox))
	want := `{"Gateway":"10.2.9.9","GatewayIPv6":"fd00:1::1","StaticRoutes":null,"DisableGatewayService":true,` +
		`"InterfaceName":{"SrcName":"dbpe1e1e1e1e1e1","DstPrefix":"eth","DstName":"web9"}}`
	if got != want {
		t.Errorf("Join:\n got %s\nwant %s", got, want)
	}
}

func TestInternalNetworkHasNoGatewayAndPublishesNothing(t *testing.T) {
	r := newRig(t)
	internal := `"com.docker.network.internal":true`
	r.must(createNetwork, networkBody(net1, internal, `{"Pool":"10.1.0.0/24"}`, ""))
	r.must(createNetwork, networkBody(net2, internal, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, ""))
	r.must(createEndpoint, endpointBody(net2, ep1, "10.2.0.2/24", "", ""))
	ports := portMap(binding(6, "", 0, 80), binding(7, "nowhere", 0, 80)) // not even looked at
	joined := idsBody(net2, ep1, `,"SandboxKey":"/var/run/docker/netns/1eee51bd70de"`+ports)
	if got := r.must(join, joined); !strings.Contains(got, `"Gateway":"","GatewayIPv6":""`) {
		t.Errorf("Join names a gateway: %s", got)
	}
	r.must(join, joined)
	r.must(program, idsBody(net2, ep1, ports))
	r.must(program, idsBody(net2, ep1, ports))
	lines := 0
	for _, line := range r.log.AllEntries() {
		if strings.Contains(line.Message, "ports are ignored") {
			lines++
		}
	}
	if lines != 1 {
		t.Errorf("%d lines in the log say that the ports are ignored, want 1", lines)
	}
	if before := r.onHost(); strings.Contains(before, "/tcp") {
		t.Errorf("published:\n%s", before)
	}
}

func TestAddressOfADeadEndpointGoesToItsSuccessor(t *testing.T) {
	r := newRig(t)
	r.dual()
	r.must(createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24,fd00:1::3/64", "", ""))
	r.must(join, idsBody(net1, ep2, sandbox))
	successor := endpointBody(net1, ep3, "10.1.0.2/24,fd00:1::3/64", "", "")
	r.refused(createEndpoint, successor, "create endpoint e3e3e3e3e3e3", "10.1.0.2", "in use", "endpoint e1e1e1e1e1e1")
	r.host.Delete("link dbve1e1e1e1e1e1")
	r.refused(createEndpoint, successor, "fd00:1::3", "endpoint e2e2e2e2e2e2")
	r.host.Delete("link dbve2e2e2e2e2e2")
	r.must(createEndpoint, successor)
	if left := r.onHost(); strings.Contains(left, "dbve1") || strings.Contains(left, "dbve2") {
		t.Errorf("the dead are still on the host:\n%s", left)
	}
}

func TestFailureOfTheHostIsToldAndLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net1, "", pool4, ""))
	before := r.onHost()
	r.host.Break("link dbve1e1e1e1e1e1", fmt.Errorf("file exists"))
	r.refused(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "", ""),
		"create endpoint e1e1e1e1e1e1: link dbve1e1e1e1e1e1: file exists")
	if got := r.onHost(); got != before {
		t.Errorf("left over:\n%s", got)
	}
}

func TestPublishedPortsGoWithTheEndpointEvenUnrevoked(t *testing.T) {
	for _, end := range []string{revoke, leave, deleteEndpoint} {
		r := newRig(t)
		r.dual()
		r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80))))
		r.must(createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "", ""))
		r.must(join, idsBody(net1, ep2, otherSandbox))
		taken := idsBody(net1, ep2, portMap(binding(6, "127.0.0.1", 8080, 80)))
		r.refused(program, taken, "publish ports of endpoint e2e2e2e2e2e2", "127.0.0.1:8080->80/tcp", "in use", "e1e1e1e1e1e1")
		r.must(end, idsBody(net1, ep1, ""))
		r.must(program, taken)
	}
}

func TestOnlyIPv4IsPublishedBesideAnotherGatewayForIPv6(t *testing.T) {
	r := newRig(t)
	r.dual()
	options := `,"Options":{"com.docker.network.driver.private.no_proxy_6to4":%s,"com.docker.network.portmap":[` +
		binding(6, "", 8080, 80) + "," + binding(6, "fd00::9", 8081, 81) + "]}"
	r.refused(program, idsBody(net1, ep1, fmt.Sprintf(options, `"yes"`)), "no_proxy_6to4", "true or false")
	r.must(program, idsBody(net1, ep1, fmt.Sprintf(options, "true")))
	if host := r.onHost(); !strings.Contains(host, "0.0.0.0:8080->80/tcp") || strings.Contains(host, "8081") || strings.Contains(host, "*:8080") {
		t.Errorf("published:\n%s", host)
	}
	r.must(program, idsBody(net1, ep1, fmt.Sprintf(options, "false")))
	if host := r.onHost(); !strings.Contains(host, "*:8080->80/tcp") || !strings.Contains(host, "[fd00::9]:8081") {
		t.Errorf("published:\n%s", host)
	}
}

// TestAnAddressThatIsReleasedLeadsNowhere has an engine turn IPv6 off in a container.
func TestAnAddressThatIsReleasedLeadsNowhere(t *testing.T) {
	r := newRig(t)
	pool, err := r.ipam.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("fd00:1::/64")})
	if err != nil {
		t.Fatal(err)
	}
	r.must(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"fd00:1::2"}`, pool.ID))
	r.dual()
	r.must(program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 80))))
	before := r.onHost()
	r.must(releaseAddress, `{"PoolID":"another","Address":"fd00:1::2"}`)
	if host := r.onHost(); host != before {
		t.Errorf("the release of another pool's address changed:\n%s", host)
	}
	r.must(releaseAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"fd00:1::2"}`, pool.ID))
	if host := r.onHost(); !strings.Contains(host, "0.0.0.0:8080->80/tcp") || strings.Contains(host, "fd00:1::2") {
		t.Errorf("published:\n%s", host)
	}
	r.must(createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24,fd00:1::2/64", "", ""))
}

func TestANetworkWithoutSubnetsHasContainersWithoutAddresses(t *testing.T) {
	for what, body := range map[string]string{
		"neither family": networkBody(net2, `"com.docker.network.enable_ipv4":false`, "", ""),
		"the null IPAM":  networkBody(net2, "", `{"AddressSpace":"null","Pool":"0.0.0.0/0"}`, ""),
	} {
		r := newRig(t)
		r.must(createNetwork, body)
		if answer := r.must(createEndpoint, endpointBody(net2, ep1, "", "", "")); !strings.Contains(answer, `"MacAddress":"`) {
			t.Errorf("%s: %s", what, answer)
		}
		if answer := r.must(join, idsBody(net2, ep1, sandbox)); !strings.Contains(answer, `"Gateway":""`) || !strings.Contains(answer, `"DisableGatewayService":true`) {
			t.Errorf("%s: %s", what, answer)
		}
	}
}

func TestNoGatewayIsAskedForWhereNobodyWouldHaveIt(t *testing.T) {
	r := newRig(t)
	for options, want := range map[string]string{
		``:                                   `{"SkipIPv4":false,"SkipIPv6":false}`,
		`"com.docker.network.internal":true`: `{"SkipIPv4":false,"SkipIPv6":false}`,
		`"com.docker.network.internal":true,"com.docker.network.generic":{"com.docker.network.bridge.gateway_mode_ipv4":"isolated"}`: `{"SkipIPv4":true,"SkipIPv6":false}`,
		`"com.docker.network.internal":true,"com.docker.network.generic":{"com.docker.network.bridge.gateway_mode_ipv6":"isolated"}`: `{"SkipIPv4":false,"SkipIPv6":true}`,
		`"com.docker.network.internal":true,"com.docker.network.generic":{"com.docker.network.bridge.inhibit_ipv4":"true"}`:          `{"SkipIPv4":true,"SkipIPv6":false}`,
		`"com.docker.network.generic":{"com.docker.network.bridge.inhibit_ipv4":"true"}`:                                             `{"SkipIPv4":false,"SkipIPv6":false}`,
	} {
		if got := strings.TrimSpace(r.must("/NetworkDriver.GwAllocCheck", `{"Options":{`+options+`}}`)); got != want {
			t.Errorf("{%s}: %s, want %s", options, got, want)
		}
	}
}

func TestASubnetInsideAWiderRouteIsTakenWithAWarning(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net2, "", `{"Pool":"10.99.1.0/24","Gateway":"10.99.1.1/24"}`, ""))
	warned := false
	for _, e := range r.log.AllEntries() {
		warned = warned || strings.Contains(e.Message, "subnet 10.99.1.0/24 overlaps route 10.99.0.0/16 by tun0")
	}
	if !warned {
		t.Error("nobody was warned")
	}
}

func TestARoutedPortIsOpenFromJoinOn(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.bridge.gateway_mode_ipv4":"routed"}`, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, ""))
	r.must(createEndpoint, endpointBody(net2, ep1, "10.2.0.2/24", "", ""))
	r.must(join, strings.Replace(idsBody(net2, ep1, sandbox), `"Options":{}`, strings.TrimPrefix(portMap(binding(6, "", 0, 80)), ","), 1))
	if host := r.onHost(); !strings.Contains(host, "open [tcp 10.2.0.2:80]") || strings.Contains(host, "->80/tcp") {
		t.Errorf("the host has\n%s", host)
	}
	r.must(leave, idsBody(net2, ep1, ""))
	if host := r.onHost(); strings.Contains(host, "tcp 10.2.0.2:80") {
		t.Errorf("after Leave the host has\n%s", host)
	}
}

func TestPoolsAndAddressesOfOurOwn(t *testing.T) {
	r := newRig(t)
	pool := func(body string) string {
		t.Helper()
		var answer struct{ PoolID string }
		if err := json.Unmarshal([]byte(r.must(requestPool, body)), &answer); err != nil {
			t.Fatal(err)
		}
		return answer.PoolID
	}
	id := pool(`{"AddressSpace":"drawbridge-local","Pool":"10.3.0.0/24","SubPool":"10.3.0.128/25","Options":{},"V6":false}`)
	if other := pool(`{"AddressSpace":"drawbridge-local","Pool":"","Options":null,"V6":false}`); other == id {
		t.Error("one pool twice")
	}
	want := func(body, answer string) {
		t.Helper()
		if got := r.must(requestAddress, fmt.Sprintf(`{"PoolID":%q,%s}`, id, body)); got != answer {
			t.Errorf("%s:\n got %s\nwant %s", body, got, answer)
		}
	}
	want(`"Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}`, `{"Address":"10.3.0.128/24","Data":{}}`)
	want(`"Address":"10.3.0.9","Options":null`, `{"Address":"10.3.0.9/24","Data":{}}`)
	r.must(createNetwork, networkBody(net1, "",
		`{"AddressSpace":"drawbridge-local","Pool":"10.3.0.0/24","Gateway":"10.3.0.128/24","AuxAddresses":{"printer":"10.3.0.9/24"}}`, ""))
	r.refused(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"10.3.0.9","Options":{"com.docker.network.endpoint.name":"c1"}}`, id), "10.3.0.9", "auxiliary")
	want(`"Address":"","Options":{"com.docker.network.endpoint.name":"c1"}`, `{"Address":"10.3.0.129/24","Data":{}}`)
	want(`"Address":"10.3.0.7","Options":{"com.docker.network.endpoint.macaddress":"02:42:ac:11:00:02"}`, `{"Address":"10.3.0.7/24","Data":{}}`)
	r.refused(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"10.3.0.129"}`, id), "10.3.0.129", "leased to c1")
	r.refused(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"10.3.0.7"}`, id), "leased to 02:42:ac:11:00:02")
	r.must(releaseAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"10.3.0.129"}`, id))
	r.must(releasePool, fmt.Sprintf(`{"PoolID":%q}`, id))
	r.refused(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":""}`, id), "no such pool")
}

func TestPoolThatOurIPAMDoesNotKnowMakesNoNetwork(t *testing.T) {
	r := newRig(t)
	r.refused(createNetwork, networkBody(net1, "", `{"AddressSpace":"drawbridge-local","Pool":"10.3.0.0/24","Gateway":"10.3.0.1/24"}`, ""),
		"create network 1a1a1a1a1a1a", "10.3.0.0/24", "no such pool")
	if got := r.onHost(); got != "" {
		t.Errorf("left over:\n%s", got)
	}
}

func TestSwarmOptionsAreEchoed(t *testing.T) {
	r := newRig(t)
	got := r.must("/NetworkDriver.AllocateNetwork", `{"NetworkID":"b3s04gz065xlt6fvbo68en3na","Options":{"k":"v"},"IPv4Data":[{"Pool":"10.0.0.0/24"}],"IPv6Data":null}`)
	if got != `{"Options":{"k":"v"}}` {
		t.Errorf("AllocateNetwork: %s", got)
	}
	if got := r.must("/NetworkDriver.AllocateNetwork", `{"NetworkID":"b3s04gz065xlt6fvbo68en3na","Options":null}`); got != `{"Options":{}}` {
		t.Errorf("AllocateNetwork without options: %s", got)
	}
	r.must("/NetworkDriver.FreeNetwork", `{"NetworkID":"b3s04gz065xlt6fvbo68en3na"}`)
	for _, path := range []string{"/NetworkDriver.DiscoverNew", "/NetworkDriver.DiscoverDelete"} {
		r.must(path, `{"DiscoveryType":1,"DiscoveryData":{"Address":"10.0.99.1","BindAddress":"10.0.99.1","Self":true}}`)
	}
}

func TestTenThousandPortsAreOneRange(t *testing.T) {
	r := newRig(t)
	r.dual()
	var all []string
	for port := 20000; port < 30000; port++ {
		all = append(all, binding(17, "", port, port))
	}
	r.must(program, idsBody(net1, ep1, portMap(all...)))
	if host := r.onHost(); !strings.Contains(host, "*:20000-29999->20000-29999/udp") {
		t.Errorf("published:\n%s", host)
	}
}

func TestManyContainersAtOnce(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net1, "", pool4, ""))
	var all sync.WaitGroup
	for n := 2; n < 42; n++ {
		all.Go(func() {
			id := fmt.Sprintf("e%011d%052d", n, 0)
			for range 3 {
				r.must(createEndpoint, endpointBody(net1, id, fmt.Sprintf("10.1.0.%d/24", n), "", ""))
				r.must(join, idsBody(net1, id, sandbox))
				r.must(program, idsBody(net1, id, portMap(binding(6, "", 8000+n, 80))))
				r.must("/NetworkDriver.EndpointOperInfo", idsBody(net1, id, ""))
				r.must(revoke, idsBody(net1, id, ""))
				r.must(leave, idsBody(net1, id, ""))
				r.must(deleteEndpoint, idsBody(net1, id, ""))
			}
		})
	}
	all.Wait()
	r.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1))
	if left := r.onHost(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
}
