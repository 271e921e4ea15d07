package hostile_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// id makes an ID, as long as Docker's, of one that is as short as Docker shows it.
func id(short string) string { return short + strings.Repeat("0", 64-len(short)) }

// vocabulary is what requests are made of: network web with endpoint one, which is in a
// container and publishes, and endpoint idle, which is in none; network lan with endpoint
// two and an auxiliary address; a pool to spare; and what there is not yet.
func vocabulary() words {
	pool := func(space, prefix, gateway string) string {
		return fmt.Sprintf(`{"AddressSpace":%q,"Pool":%q,"Gateway":%q}`, space, prefix, gateway)
	}
	both := func(network, endpoint string) string {
		return fmt.Sprintf(`"NetworkID":%q,"EndpointID":%q`, id(network), id(endpoint))
	}
	return words{
		"web": id("networkweb01"), "lan": id("networklan01"), "new": id("networknew01"),
		"one": id("endpointone1"), "two": id("endpointtwo1"), "idle": id("endpointidle"), "newep": id("endpointnew1"),
		"ids": both("networkweb01", "endpointone1"), "idleids": both("networkweb01", "endpointidle"), "newids": both("networkweb01", "endpointnew1"),

		"space":    `"AddressSpace":"drawbridge-local"`,
		"webpool4": pool("drawbridge-local", "10.1.0.0/24", "10.1.0.1/24"),
		"webpool6": pool("drawbridge-local", "fd00:1::/64", "fd00:1::1/64"),
		"spare":    pool("drawbridge-local", "10.3.0.0/24", "10.3.0.1/24"),
		"free":     pool("LocalDefault", "10.9.0.0/24", "10.9.0.1/24"),
		"free6":    pool("LocalDefault", "fd00:9::/64", "fd00:9::1/64"),

		"generic":  "com.docker.network.generic",
		"internal": "com.docker.network.internal",
		"ipv6":     `"com.docker.network.enable_ipv6":true`,
		"mtu":      "com.docker.network.driver.mtu",
		"bridge":   "com.docker.network.bridge.name",
		"prefix":   "com.docker.network.container_iface_prefix",
		"trusted":  "com.docker.network.bridge.trusted_host_interfaces",
		"ifname":   "com.docker.network.endpoint.ifname",
		"portmap":  "com.docker.network.portmap",
		"exposed":  "com.docker.network.endpoint.exposedports",
	}
}

// client speaks HTTP by hand, since a client of net/http sends nothing that is wrong, and
// may miss the answer to what it has not finished.
type client struct {
	t      *testing.T
	socket string
	words  words
}

// patience is how long an answer may take on a busy machine.
const patience = 2 * time.Minute

// send returns status and body of the answer to a request.
func (c *client) send(r *request) (int, string) {
	c.t.Helper()
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	body := c.words.fill(c.t, r.body)
	length := fmt.Sprintf("Content-Length: %d", len(body))
	if r.chunked {
		length, body = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	path := "/" + strings.TrimPrefix(r.path, "/")
	go func() { // the server may have heard enough before the end
		_, _ = io.WriteString(conn, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: \r\nConnection: close\r\n%s\r\n\r\n%s", r.verb, path, length, body))
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Fatalf("%s: %v", r.name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s: %v", r.name, err)
	}
	return resp.StatusCode, string(text)
}

// ask sends a request and returns the answer as it stands in testdata.
func (c *client) ask(r *request) string {
	c.t.Helper()
	answer := answerLine(c.send(r))
	for _, name := range []string{"pool4", "pool6", "lanpool", "sparepool"} {
		if random := c.words[name]; random != "" {
			answer = strings.ReplaceAll(answer, random, "${"+name+"}")
		}
	}
	return answer
}

// must sends what must succeed, and returns a field of the answer.
func (c *client) must(call, body, field string) string {
	c.t.Helper()
	status, answer := c.send(&request{name: call, verb: "POST", path: call, body: body})
	fields := map[string]any{}
	if err := json.Unmarshal([]byte(answer), &fields); err != nil || status != http.StatusOK || fields["Err"] != nil {
		c.t.Fatalf("%s %s: %d %s", call, body, status, answer)
	}
	text, _ := fields[field].(string)
	return text
}

// settle makes what the vocabulary names. Joined is told of each endpoint that is in a
// container.
func (c *client) settle(joined func(endpoint string)) {
	c.t.Helper()
	pool := func(name, prefix, more string) {
		c.words[name] = c.must("IpamDriver.RequestPool", fmt.Sprintf(`{${space},"Pool":%q%s}`, prefix, more), "PoolID")
	}
	address := func(pool, addr, options string) {
		c.must("IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":"${%s}","Address":%q,"Options":{%s}}`, pool, addr, options), "")
	}
	const gateway = `"RequestAddressType":"com.docker.network.gateway"`
	pool("pool4", "10.1.0.0/24", "")
	pool("pool6", "fd00:1::/64", `,"V6":true`)
	pool("lanpool", "10.2.0.0/24", "")
	pool("sparepool", "10.3.0.0/24", "")
	address("pool4", "10.1.0.1", gateway)
	address("pool6", "fd00:1::1", gateway)
	address("lanpool", "10.2.0.1", gateway)
	address("lanpool", "10.2.0.9", "")
	address("sparepool", "10.3.0.1", gateway)
	c.must("NetworkDriver.CreateNetwork", `{"NetworkID":"${web}","Options":{${ipv6}},"IPv4Data":[${webpool4}],"IPv6Data":[${webpool6}]}`, "")
	c.must("NetworkDriver.CreateNetwork", `{"NetworkID":"${lan}","IPv4Data":[{${space},"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24","AuxAddresses":{"printer":"10.2.0.9/24"}}]}`, "")

	owner := func(name string) string { return fmt.Sprintf(`"com.docker.network.endpoint.name":%q`, name) }
	address("pool4", "10.1.0.2", owner("one"))
	address("pool6", "fd00:1::2", owner("one"))
	address("pool4", "10.1.0.3", owner("idle"))
	address("pool6", "fd00:1::3", owner("idle"))
	address("lanpool", "10.2.0.2", owner("two"))
	address("sparepool", "10.3.0.5", owner("another driver's"))
	c.must("NetworkDriver.CreateEndpoint", `{${ids},"Interface":{"Address":"10.1.0.2/24","AddressIPv6":"fd00:1::2/64"}}`, "")
	c.must("NetworkDriver.CreateEndpoint", `{${idleids},"Interface":{"Address":"10.1.0.3/24","AddressIPv6":"fd00:1::3/64"}}`, "")
	c.must("NetworkDriver.CreateEndpoint", `{"NetworkID":"${lan}","EndpointID":"${two}","Interface":{"Address":"10.2.0.2/24"}}`, "")
	c.must("NetworkDriver.Join", `{${ids},"SandboxKey":"/run/docker/netns/one","Options":{}}`, "")
	c.must("NetworkDriver.Join", `{"NetworkID":"${lan}","EndpointID":"${two}","SandboxKey":"/run/docker/netns/two","Options":{}}`, "")
	joined("endpointone1")
	joined("endpointtwo1")
	c.must("NetworkDriver.ProgramExternalConnectivity", `{${ids},"Options":{"${portmap}":[{"Proto":6,"Port":80,"HostPort":8080,"HostPortEnd":8080}]}}`, "")
	var ports []string
	for port := 9000; port < 9010; port++ {
		ports = append(ports, fmt.Sprintf(`{"Proto":6,"Port":%d,"HostPort":%d,"HostPortEnd":%d}`, port, port, port))
	}
	c.must("NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"${lan}","EndpointID":"${two}","Options":{"${portmap}":[{"Proto":17,"Port":81,"HostPort":8081,"HostPortEnd":8081},`+strings.Join(ports, ",")+`]}}`, "")
}

// live has a container come and go, which shows that the server is well.
func (c *client) live() {
	c.t.Helper()
	pool := c.must("IpamDriver.RequestPool", `{${space},"Pool":"10.9.0.0/24"}`, "PoolID")
	in := func(addr string) string { return fmt.Sprintf(`{"PoolID":%q,"Address":%q}`, pool, addr) }
	c.must("IpamDriver.RequestAddress", in("10.9.0.1"), "")
	c.must("NetworkDriver.CreateNetwork", `{"NetworkID":"${new}","IPv4Data":[{${space},"Pool":"10.9.0.0/24","Gateway":"10.9.0.1/24"}]}`, "")
	c.must("IpamDriver.RequestAddress", in("10.9.0.7"), "")
	ids := `{"NetworkID":"${new}","EndpointID":"${newep}"`
	c.must("NetworkDriver.CreateEndpoint", ids+`,"Interface":{"Address":"10.9.0.7/24"}}`, "")
	c.must("NetworkDriver.Join", ids+`,"SandboxKey":"/run/docker/netns/new","Options":{}}`, "")
	c.must("NetworkDriver.ProgramExternalConnectivity", ids+`,"Options":{"${portmap}":[{"Proto":6,"Port":80,"HostPort":9080,"HostPortEnd":9080}]}}`, "")
	for _, call := range []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork"} {
		c.must("NetworkDriver."+call, ids+"}", "")
	}
	c.must("IpamDriver.ReleaseAddress", in("10.9.0.7"), "")
	c.must("IpamDriver.ReleaseAddress", in("10.9.0.1"), "")
	c.must("IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID":%q}`, pool), "")
}
