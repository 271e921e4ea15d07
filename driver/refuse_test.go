package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/test/golden"
)

// hostile are requests that must be refused, each with what the refusal must say.
// Rows run in order over a network net1 with an endpoint ep1, and none may leave a
// trace.
var hostile = []struct {
	name, path, body string
	want             []string
}{
	// The form.
	{"empty body, as an engine repeats a call after a lost connection", createNetwork, "", []string{"no body"}},
	{"blanks", join, " \n", []string{"no body"}},
	{"not JSON", createNetwork, "hello", []string{"not JSON"}},
	{"half a request", deleteNetwork, `{"NetworkID":"` + net1, []string{"not JSON"}},
	{"two requests in one", deleteNetwork, `{"NetworkID":"` + net1 + `"}{}`, []string{"not JSON", "after top-level value"}},
	{"trailing text", deleteNetwork, `{"NetworkID":"` + net1 + `"} x`, []string{"not JSON"}},
	{"a list", createNetwork, `[]`, []string{"request: want an object, got array"}},
	{"null", createNetwork, `null`, []string{"NetworkID"}},
	{"a field twice", deleteNetwork, `{"NetworkID":"` + net1 + `","NetworkID":"` + net2 + `"}`, []string{"field NetworkID is given twice"}},
	{"a field twice in other letters", deleteNetwork, `{"NetworkID":"` + net2 + `","networkid":"` + net1 + `"}`, []string{"field networkid is given twice"}},
	{"an inner field twice", createEndpoint, idsBody(net1, ep2, `,"Interface":{"Address":"10.1.0.3/24","Address":"10.1.0.4/24"}`), []string{"field Address is given twice"}},
	{"an option twice", createNetwork, networkBody(net2, `"a":"1","a":"2"`, pool4, ""), []string{"field a is given twice"}},
	{"deeper than anything", createNetwork, networkBody(net2, `"a":`+strings.Repeat("[", 40)+strings.Repeat("]", 40), pool4, ""), []string{"nested deeper than 32"}},
	{"a number for an ID", deleteNetwork, `{"NetworkID":7}`, []string{"field NetworkID: want a string, got number"}},
	{"a string for an object", createEndpoint, idsBody(net1, ep2, `,"Interface":"eth0"`), []string{"field Interface: want an object, got string"}},
	{"a number for an address", createEndpoint, idsBody(net1, ep2, `,"Interface":{"Address":1}`), []string{"field Interface.Address: want a string"}},
	{"an object for a list", createNetwork, `{"NetworkID":"` + net2 + `","IPv4Data":{}}`, []string{"field IPv4Data: want a list, got object"}},
	{"a list for options", join, idsBody(net1, ep1, `,"Options":[]`), []string{"field Options: want an object, got array"}},
	{"a string for a switch", requestPool, `{"AddressSpace":"drawbridge-local","V6":"yes"}`, []string{"field V6: want true or false"}},
	{"an option of IPAM that is no string", requestPool, `{"AddressSpace":"drawbridge-local","Options":{"a":1}}`, []string{"field Options", "want a string"}},

	// IDs.
	{"no network", deleteNetwork, `{}`, []string{"field NetworkID", "invalid"}},
	{"a short ID", deleteNetwork, `{"NetworkID":"abc"}`, []string{"field NetworkID", "12 to 64"}},
	{"a long ID", deleteNetwork, `{"NetworkID":"` + strings.Repeat("a", 100000) + `"}`, []string{"field NetworkID"}},
	{"an ID that is a path", leave, idsBody("../../../etc/passwd", ep1, ""), []string{"field NetworkID", "letters and digits"}},
	{"an ID in capitals", leave, idsBody(net1, strings.ToUpper(ep1), ""), []string{"field EndpointID", "letters and digits"}},
	{"an ID with a line feed", leave, idsBody(net1, "aaaaaaaaaaaa\nbbbb", ""), []string{"field EndpointID"}},

	// Networks.
	{"no pools", createNetwork, networkBody(net2, "", "", ""), []string{"field IPv4Data", "empty"}},
	{"IPv6 without pools", createNetwork, networkBody(net2, ipv6, pool4, ""), []string{"field IPv6Data", "empty"}},
	{"IPv6 pools without IPv6", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, pool6), []string{"field IPv6Data", "not enabled"}},
	{"a null pool", createNetwork, networkBody(net2, "", `null`, ""), []string{"field IPv4Data[0]", "null"}},
	{"host bits", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.7/24","Gateway":"10.2.0.1/24"}`, ""), []string{"field IPv4Data[0]", "10.2.0.7/24", "want 10.2.0.0/24"}},
	{"no prefix", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0","Gateway":"10.2.0.1/24"}`, ""), []string{`field IPv4Data[0].Pool: "10.2.0.0"`}},
	{"a prefix of the other family", createNetwork, networkBody(net2, "", pool6, ""), []string{"field IPv4Data[0].Pool: fd00:1::/64", "other family"}},
	{"IPv4 written as IPv6", createNetwork, networkBody(net2, ipv6, pool4, `{"Pool":"::ffff:10.2.0.0/120","Gateway":"::ffff:10.2.0.1/120"}`), []string{"field IPv6Data[0].Pool"}},
	{"multicast", createNetwork, networkBody(net2, "", `{"Pool":"224.1.0.0/24","Gateway":"224.1.0.1/24"}`, ""), []string{"224.1.0.0/24", "multicast"}},
	{"loopback", createNetwork, networkBody(net2, "", `{"Pool":"127.0.0.0/24","Gateway":"127.0.0.1/24"}`, ""), []string{"127.0.0.0/24", "loopback"}},
	{"this host", createNetwork, networkBody(net2, "", `{"Pool":"0.0.0.0/24","Gateway":"0.0.0.1/24"}`, ""), []string{"0.0.0.0/24", "host itself"}},
	{"half of the internet", createNetwork, networkBody(net2, "", `{"Pool":"0.0.0.0/1","Gateway":"10.0.0.1/1"}`, ""), []string{"0.0.0.0/1"}},
	{"link-local IPv6", createNetwork, networkBody(net2, ipv6, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, `{"Pool":"fe80::/56","Gateway":"fe80::1/56"}`), []string{"fe80::/56", "overlaps fe80::/64"}},
	{"no gateway", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24"}`, ""), []string{"field IPv4Data[0].Gateway", "--gateway", "--internal"}},
	{"a gateway outside", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.3.0.1/24"}`, ""), []string{"gateway 10.3.0.1", "outside 10.2.0.0/24"}},
	{"a gateway of another length", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/16"}`, ""), []string{"field IPv4Data[0].Gateway: 10.2.0.1/16"}},
	{"the network as gateway", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.0/24"}`, ""), []string{"gateway 10.2.0.0", "network 10.2.0.0/24 itself"}},
	{"the broadcast as gateway", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.255/24"}`, ""), []string{"gateway 10.2.0.255", "broadcast"}},
	{"overlap with another network", createNetwork, networkBody(net2, "", `{"Pool":"10.1.0.128/25","Gateway":"10.1.0.129/25"}`, ""), []string{"create network 2b2b2b2b2b2b: subnet 10.1.0.128/25: in use", "10.1.0.0/24 of network 1a1a1a1a1a1a"}},
	{"overlap with the host's own subnet", createNetwork, networkBody(net2, "", `{"Pool":"192.168.7.128/25","Gateway":"192.168.7.129/25"}`, ""), []string{"subnet 192.168.7.128/25", "address 192.168.7.5/24 of eth0", "--subnet"}},
	{"another network's bridge by its name", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.bridge.name":"dbr1a1a1a1a1a1a"}`, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, ""), []string{"bridge dbr1a1a1a1a1a1a", "Drawbridge gives such names itself"}},
	{"an engine's bridge, which names it nowhere", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.bridge.name":"docker0"}`, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, ""), []string{"bridge docker0", "an engine's own"}},
	{"overlap with itself", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"},{"Pool":"10.2.0.0/25","Gateway":"10.2.0.1/25"}`, ""), []string{"subnet 10.2.0.0/25", "same network"}},
	{"the same network with another subnet", createNetwork, networkBody(net1, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, ""), []string{"already exists with other settings"}},
	{"a default gateway of an internal network", createNetwork, networkBody(net2, `"com.docker.network.internal":true`, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24","AuxAddresses":{"DefaultGatewayIPv4":"10.2.0.9/24"}}`, ""), []string{"DefaultGatewayIPv4", "an internal network has no gateway"}},
	{"a default gateway elsewhere", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24","AuxAddresses":{"DefaultGatewayIPv4":"10.3.0.9/24"}}`, ""), []string{"DefaultGatewayIPv4", "outside 10.2.0.0/24"}},
	{"an auxiliary address outside", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24","AuxAddresses":{"a":"10.3.0.9/24"}}`, ""), []string{`AuxAddresses["a"]: 10.3.0.9/24`, "outside"}},
	{"an auxiliary address that is a number", createNetwork, networkBody(net2, "", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24","AuxAddresses":{"a":9}}`, ""), []string{`AuxAddresses["a"]`, "want a string"}},

	// Options.
	{"a switch as a string", createNetwork, networkBody(net2, `"com.docker.network.internal":"true"`, pool4, ""), []string{`com.docker.network.internal="true"`, "true or false"}},
	{"driver options that are a list", createNetwork, networkBody(net2, `"com.docker.network.generic":[]`, pool4, ""), []string{"com.docker.network.generic", "want an object"}},
	{"an MTU that is a word", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.driver.mtu":"jumbo"}`, pool4, ""), []string{`driver.mtu="jumbo"`, "68 to 65535"}},
	{"an MTU too small for IPv6", createNetwork, networkBody(net2, ipv6+`,"com.docker.network.generic":{"com.docker.network.driver.mtu":"1000"}`, `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`, `{"Pool":"fd00:2::/64","Gateway":"fd00:2::1/64"}`), []string{"driver.mtu=1000", "1280"}},
	{"an option of ours that is misspelled", createNetwork, networkBody(net2, `"com.docker.network.generic":{"drawbridge.mut":"1400"}`, pool4, ""), []string{"drawbridge.mut", "com.docker.network.driver.mtu"}},
	{"isolated, but not internal", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.bridge.gateway_mode_ipv4":"isolated"}`, pool4, ""), []string{"isolated", "--internal"}},
	{"a mistake told before a pool is spent", "/NetworkDriver.GwAllocCheck", `{"Options":{"com.docker.network.generic":{"com.docker.network.driver.mtu":"-1"}}}`, []string{"driver.mtu", "68 to 65535"}},
	{"an interface prefix that is too long", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.container_iface_prefix":"averylongprefix"}`, pool4, ""), []string{"container_iface_prefix", "1 to 12"}},
	{"an endless value", createNetwork, networkBody(net2, `"com.docker.network.generic":{"com.docker.network.driver.mtu":"`+strings.Repeat("9", 1<<20)+`"}`, pool4, ""), []string{"driver.mtu"}},

	// Endpoints.
	{"an unknown network", createEndpoint, endpointBody(net2, ep2, "10.1.0.3/24", "", ""), []string{"network 2b2b2b2b2b2b", "not found"}},
	{"no interface", createEndpoint, idsBody(net1, ep2, ""), []string{"it has no address"}},
	{"an address without length", createEndpoint, endpointBody(net1, ep2, "10.1.0.3", "", ""), []string{`field Interface.Address: "10.1.0.3"`}},
	{"an address of another length", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/16", "", ""), []string{"10.1.0.3/16"}},
	{"an address of no subnet", createEndpoint, endpointBody(net1, ep2, "10.9.0.3/24", "", ""), []string{"10.9.0.3/24", "no subnet"}},
	{"an address of the other family", createEndpoint, endpointBody(net1, ep2, "fd00:1::3/64", "", ""), []string{"field Interface.Address", "other family"}},
	{"the gateway's address", createEndpoint, endpointBody(net1, ep2, "10.1.0.1/24", "", ""), []string{"10.1.0.1/24", "gateway"}},
	{"the broadcast address", createEndpoint, endpointBody(net1, ep2, "10.1.0.255/24", "", ""), []string{"10.1.0.255", "broadcast"}},
	{"an address that another has", createEndpoint, endpointBody(net1, ep2, "10.1.0.2/24", "", ""), []string{"10.1.0.2", "in use", "endpoint e1e1e1e1e1e1"}},
	{"the same endpoint with another address", createEndpoint, endpointBody(net1, ep1, "10.1.0.9/24,fd00:1::2/64", "", ""), []string{"already exists with other settings"}},
	{"a MAC that is none", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "02:42", ""), []string{"field Interface.MacAddress", "six bytes"}},
	{"a multicast MAC", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "01:00:5e:00:00:01", ""), []string{"01:00:5e:00:00:01", "unicast"}},
	{"a MAC of eight bytes", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "02:00:5e:10:00:00:00:01", ""), []string{"six bytes"}},
	{"an interface name with a slash", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "", `"com.docker.network.endpoint.ifname":"a/b"`), []string{`ifname="a/b"`}},
	{"an interface name that is a number", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "", `"com.docker.network.endpoint.ifname":7`), []string{"ifname=7", "want a string"}},
	{"two interface names", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "", `"com.docker.network.endpoint.ifname":"a","com.docker.network.endpoint.IFNAME":"b"`), []string{"ifname", "given twice"}},
	{"exposed ports that are a string", createEndpoint, endpointBody(net1, ep2, "10.1.0.3/24", "", `"com.docker.network.endpoint.exposedports":"80"`), []string{"exposedports", "list of ports"}},
	{"a Join of nobody", join, idsBody(net1, ep2, sandbox), []string{"join endpoint e2e2e2e2e2e2", "not found"}},
	{"a Join into nothing", join, idsBody(net1, ep1, `,"SandboxKey":""`), []string{"field SandboxKey"}},
	{"a Join into an endless path", join, idsBody(net1, ep1, `,"SandboxKey":"`+strings.Repeat("/a", 4000)+`"`), []string{"field SandboxKey"}},

	// Ports.
	{"ports of nobody", program, idsBody(net1, ep2, portMap()), []string{"not found"}},
	{"a port map that is an object", program, idsBody(net1, ep1, `,"Options":{"com.docker.network.portmap":{}}`), []string{"portmap", "list of ports"}},
	{"a port that is a string", program, idsBody(net1, ep1, `,"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":"80"}]}`), []string{"portmap", "Port is a string"}},
	{"an exposed port that is a string", program, idsBody(net1, ep1, `,"Options":{"com.docker.network.endpoint.exposedports":[{"Proto":"tcp"}]}`), []string{"exposedports", "Proto is a string"}},
	{"a host port beyond the last", program, idsBody(net1, ep1, portMap(binding(6, "", 65536, 80))), []string{"host port 65536", "1 to 65535"}},
	{"a container port of zero", program, idsBody(net1, ep1, portMap(binding(6, "", 8080, 0))), []string{"container port 0"}},
	{"more ephemeral ports than there are", program, idsBody(net1, ep1, portMap(binding(6, "", 0, 80), binding(6, "", 0, 80), binding(6, "", 0, 80), binding(6, "", 0, 80), binding(6, "", 0, 80))), []string{"an ephemeral port for 80/tcp on every address", "none of 32768-32771 is free"}},
	{"more wishes than a range has ports", program, idsBody(net1, ep1, portMap(oneOf(8000, 8001, 80), oneOf(8000, 8001, 81), oneOf(8000, 8001, 82))), []string{"a port of 8000-8001 for 8", "is free", "the container itself has"}},
	{"a range that ends before it begins", program, idsBody(net1, ep1, portMap(oneOf(8001, 8000, 80))), []string{"publish 8001-8000:80/tcp", "1 to 65535"}},
	{"a link-local host address", program, idsBody(net1, ep1, portMap(binding(6, "fe80::1", 8080, 80))), []string{"fe80::1", "-p 8080:80 or -p [::]:8080:80"}},
	{"a host address with a zone", program, idsBody(net1, ep1, portMap(binding(6, "2001:db8::1%eth0", 8080, 80))), []string{"without a zone"}},
	{"a protocol without ports", program, idsBody(net1, ep1, portMap(binding(1, "", 80, 80))), []string{"protocol 1 has no ports"}},
	{"a protocol that is none", program, idsBody(net1, ep1, portMap(binding(-6, "", 80, 80))), []string{"protocol -6"}},
	{"the same port twice", program, idsBody(net1, ep1, portMap(binding(6, "", 80, 80), binding(6, "127.0.0.1", 80, 81))), []string{"overlap"}},
	{"a host address that is a name", program, idsBody(net1, ep1, portMap(binding(6, "localhost", 80, 80))), []string{`host address "localhost"`}},
	{"a multicast host address", program, idsBody(net1, ep1, portMap(binding(6, "224.0.0.1", 80, 80))), []string{"224.0.0.1", "multicast"}},
	{"too many ports", program, idsBody(net1, ep1, `,"Options":{"com.docker.network.portmap":[`+strings.Repeat("{},", 140000)+`{}]}`), []string{"140001 port bindings"}},

	// Pools and addresses.
	{"a foreign address space", requestPool, `{"AddressSpace":"LocalDefault","Pool":"10.4.0.0/24"}`, []string{"field AddressSpace", "drawbridge-local"}},
	{"a pool that is none", requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.4.0.0/33"}`, []string{"field Pool", "10.4.0.0/33"}},
	{"a pool of the other family", requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.4.0.0/24","V6":true}`, []string{"field Pool", "other family"}},
	{"a range outside", requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.4.0.0/24","SubPool":"10.5.0.0/25"}`, []string{"10.5.0.0/25", "outside"}},
	{"a range without a pool", requestPool, `{"AddressSpace":"drawbridge-local","SubPool":"10.5.0.0/25"}`, []string{"10.5.0.0/25"}},
	{"a multicast pool", requestPool, `{"AddressSpace":"drawbridge-local","Pool":"239.0.0.0/24"}`, []string{"239.0.0.0/24", "multicast"}},
	{"an IPAM option of ours", requestPool, `{"AddressSpace":"drawbridge-local","Options":{"Drawbridge.size":"26"}}`, []string{"Drawbridge.size"}},
	{"an address of no pool", requestAddress, `{"PoolID":"","Address":""}`, []string{"field PoolID"}},
	{"an address of an endless pool", requestAddress, `{"PoolID":"` + strings.Repeat("x", 1<<20) + `"}`, []string{"field PoolID"}},
	{"an address of an unknown pool", requestAddress, `{"PoolID":"10.77.0.0/24-AAAAAAAA"}`, []string{"10.77.0.0/24-AAAAAAAA", "no such pool"}},
	{"an address with a length", requestAddress, `{"PoolID":"p","Address":"10.4.0.4/24"}`, []string{"field Address"}},
	{"an address with a zone", requestAddress, `{"PoolID":"p","Address":"fe80::1%eth0"}`, []string{"field Address"}},
	{"an address of an unknown type", requestAddress, `{"PoolID":"p","Options":{"RequestAddressType":"king"}}`, []string{"RequestAddressType", "king"}},
	{"an address for a MAC that is none", requestAddress, `{"PoolID":"p","Options":{"com.docker.network.endpoint.macaddress":"AkKsEQBV"}}`, []string{"macaddress"}},
	{"a container's name with a line feed", requestAddress, `{"PoolID":"p","Options":{"com.docker.network.endpoint.name":"a\nb"}}`, []string{"endpoint.name"}},
	{"an endless container's name", requestAddress, `{"PoolID":"p","Options":{"com.docker.network.endpoint.name":"` + strings.Repeat("n", 256) + `"}}`, []string{"endpoint.name"}},
	{"the release of a non-address", releaseAddress, `{"PoolID":"p","Address":"all"}`, []string{"field Address"}},
	{"the release of an endless pool", releasePool, `{"PoolID":"` + strings.Repeat("x", 129) + `"}`, []string{"field PoolID"}},
}

func TestHostileRequestsAreRefusedByName(t *testing.T) {
	r := newRig(t)
	r.dual()
	host, pools := r.host.String(), len(r.ipam.Pools())
	var texts strings.Builder // for a person to read in one go
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			text := r.refused(c.path, c.body, c.want...)
			fmt.Fprintf(&texts, "%s\n  %s\n", c.name, text)
			if _, answer := r.send(c.path, c.body); len(answer) > 8192 {
				t.Errorf("the refusal has %d bytes", len(answer))
			}
		})
	}
	r.t = t
	golden.Equal(t, "testdata/refusals.golden", texts.String())
	if got := r.host.String(); got != host {
		t.Errorf("the host has changed:\n%s", got)
	}
	if got := len(r.ipam.Pools()); got != pools {
		t.Errorf("%d pools, want %d", got, pools)
	}
	for _, line := range r.log.AllEntries() {
		if text, err := line.String(); err != nil || len(text) > 16<<10 {
			t.Errorf("a line of the log has %d bytes: %v", len(text), err)
		}
	}
}

func TestUnknownFieldsAndOptionsAreIgnored(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, fmt.Sprintf(`{"NetworkID":%q,"Future":{"a":[1]},"Options":{"a":{},"A":1,"com.docker.network.generic":{"other.tool":"x","Other.Tool":"y"}},"IPv4Data":[%s],"IPv6Data":null}`, net1, pool4))
	r.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "", `"com.docker.network.endpoint.macaddress":"AkKsEQBV","k":1,"K":"2","com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.x=1"`))
}

func TestAnIPv6AddressOfTheHostIsFineForAContainerWithout(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net1, "", pool4, ""))
	r.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "", ""))
	r.must(join, idsBody(net1, ep1, sandbox))
	r.must(program, idsBody(net1, ep1, portMap(binding(6, "2001:db8::1", 80, 80), binding(132, "2001:db8::1", 80, 80), binding(132, "", 81, 81))))
	if got, want := r.published(net1, ep1), "[[2001:db8::1]:80->80/tcp 0.0.0.0:81->81/sctp]"; got != want {
		t.Errorf("published %s, want %s", got, want)
	}
}

func TestStatusSaysWhetherTheCallWasUnderstood(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"answered", http.MethodPost, "/Plugin.Activate", "", http.StatusOK},
		{"understood and refused", http.MethodPost, join, idsBody(net1, ep1, sandbox), http.StatusOK},
		{"malformed", http.MethodPost, join, "{", http.StatusBadRequest},
		{"empty", http.MethodPost, join, "", http.StatusBadRequest},
		{"unknown call", http.MethodPost, "/NetworkDriver.Fly", "{}", http.StatusNotFound},
		{"another path", http.MethodPost, "/", "{}", http.StatusNotFound},
		{"a path that only looks like one", http.MethodPost, "//Plugin.Activate", "", http.StatusNotFound},
		{"GET", http.MethodGet, "/Plugin.Activate", "", http.StatusMethodNotAllowed},
		{"PUT", http.MethodPut, join, "{}", http.StatusMethodNotAllowed},
		{"too large", http.MethodPost, join, strings.Repeat(" ", 32<<20+1), http.StatusRequestEntityTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(context.Background(), c.method, c.path, strings.NewReader(c.body))
			w := httptest.NewRecorder()
			r.handler.ServeHTTP(w, req)
			if w.Code != c.status {
				t.Errorf("status %d, want %d", w.Code, c.status)
			}
			var texts struct{ Err, Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &texts); err != nil || c.status != http.StatusOK && (texts.Err == "" || texts.Error == "") {
				t.Errorf("answer %s: %v", w.Body, err)
			}
		})
	}
}

func TestPanicFailsOneRequestOnly(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, networkBody(net1, "", pool4, ""))
	r.handler = driver.New(nil, r.ipam, r.onLink, r.logger).Handler() // no engine: each call of it panics
	status, answer := r.send(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1))
	if status != http.StatusInternalServerError || !strings.Contains(answer, `"Err":"internal`) || !strings.Contains(answer, `"Error":"internal`) {
		t.Errorf("%d %s", status, answer)
	}
	found := false
	for _, line := range r.log.AllEntries() {
		stack, ok := line.Data["stack"].(string)
		found = found || ok && strings.Contains(stack, "deleteNetwork")
	}
	if !found {
		t.Error("the log has no stack")
	}
	r.must("/NetworkDriver.GetCapabilities", "")
	r.handler = driver.New(r.engine, r.ipam, r.onLink, r.logger).Handler()
	r.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1))
}

func TestOneLineOfTheLogForEachRequest(t *testing.T) {
	r := newRig(t)
	r.log.Reset()
	r.must(createNetwork, networkBody(net1, "", pool4, ""))
	r.refused(join, idsBody(net1, ep1, sandbox))
	lines := r.log.AllEntries()
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2", len(lines))
	}
	first, second := lines[0].Data, lines[1].Data
	if first["method"] != "NetworkDriver.CreateNetwork" || first["network"] != net1 || first["took"] == nil || first["error"] != nil || first["endpoint"] != nil {
		t.Errorf("first line: %v", first)
	}
	if second["method"] != "NetworkDriver.Join" || second["endpoint"] != ep1 || !strings.Contains(fmt.Sprint(second["error"]), "not found") {
		t.Errorf("second line: %v", second)
	}
}
