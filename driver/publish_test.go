package driver_test

import (
	"fmt"
	"net/netip"
	"testing"

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
