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
	"github.com/drawbridge-net/drawbridge/plan"
)

func TestUnknownFieldsAndOptionsAreIgnored(t *testing.T) {
	r := newRig(t)
	r.must(createNetwork, fmt.Sprintf(`{"NetworkID":%q,"Future":{"a":[1]},"Options":{"a":{},"A":1,"com.docker.network.generic":{"other.tool":"x","Other.Tool":"y"}},"IPv4Data":[%s],"IPv6Data":null}`, net1, pool4))
	r.must(createEndpoint, endpointBody(net1, ep1, "10.1.0.2/24", "02:42:ac:11:00:02", `"com.docker.network.endpoint.macaddress":"AkKsEQBV","k":1,"K":"2","com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.x=1"`))
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

// TestABridgeIsNoOtherInterfaceOfTheHost not even for the moment in which the kernel would
// refuse it, since the interface is what containers go out by.
func TestABridgeIsNoOtherInterfaceOfTheHost(t *testing.T) {
	r := newRig(t)
	r.host.Become(plan.Host{Uplinks: []plan.HostLink{{Name: "eth0"}, {Name: "br-lan", Bridge: true}}})
	r.restart()
	named := func(id, bridge, pool string) string {
		return networkBody(id, fmt.Sprintf(`"com.docker.network.generic":{"com.docker.network.bridge.name":%q}`, bridge), pool, "")
	}
	before := r.host.Writes()
	r.refused(createNetwork, named(net2, "eth0", `{"Pool":"10.2.0.0/24","Gateway":"10.2.0.1/24"}`), "bridge eth0", "no bridge")
	if r.host.Writes() != before {
		t.Error("the host was written")
	}
	r.must(createNetwork, named(net1, "br-lan", pool4))
}
