package driver_test

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// TestWhatLostItsAnswerGoesWithWhatItWasMadeOf is about an engine that believes that a
// network or an endpoint could not be made, since our answer was lost: it takes back the
// addresses and pools, and never speaks of the thing itself.
func TestWhatLostItsAnswerGoesWithWhatItWasMadeOf(t *testing.T) {
	r := newRig(t)
	w := r.dial()
	n, err := w.create(net1)
	if err != nil {
		t.Fatal(err)
	}
	address := func() string {
		return w.must(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"","Options":{}}`, n.poolID))["Address"].(string)
	}
	release := func(address string) {
		w.must(releaseAddress, fmt.Sprintf(`{"PoolID":%q,"Address":%q}`, n.poolID, netip.MustParsePrefix(address).Addr()))
	}
	endpoints := func(want int) {
		t.Helper()
		state := r.engine.Now().State
		got, err := state.Network(spec.ID(net1))
		if err != nil {
			t.Fatal(err)
		}
		if got.Endpoints.Len() != want {
			t.Errorf("%d endpoints, want %d", got.Endpoints.Len(), want)
		}
	}

	joined, lost := address(), address()
	w.must(createEndpoint, endpointBody(net1, ep1, joined, "", ""))
	w.must(join, idsBody(net1, ep1, sandbox))
	w.must(createEndpoint, endpointBody(net1, ep2, lost, "", ""))
	endpoints(2)
	release(lost)
	endpoints(1)
	release(lost) // repeated
	endpoints(1)
	release(joined)
	endpoints(1)

	w.must(releasePool, fmt.Sprintf(`{"PoolID":%q}`, n.poolID))
	if left := r.onHost(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
	again, err := w.create(net2)
	if err != nil || again.pool != n.pool {
		t.Errorf("the next network: %+v, %v", again, err)
	}
	w.must(releasePool, fmt.Sprintf(`{"PoolID":%q}`, n.poolID)) // repeated
	if left := len(r.ipam.Pools()); left != 1 {
		t.Errorf("%d pools for one network", left)
	}
	if r.onHost() == "" {
		t.Error("the next network went with the pool of the first")
	}
	w.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net2)) // and the release was lost
	if left := r.ipam.Pools(); left != nil {
		t.Errorf("left of the pools: %v", left)
	}
}

// TestAnAddressAskedForByNameIsTakenFromTheDeadOnly as by --ip for a container whose
// predecessor's end nobody told us of.
func TestAnAddressAskedForByNameIsTakenFromTheDeadOnly(t *testing.T) {
	r := newRig(t)
	r.must(requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.1.0.0/24","SubPool":"","Options":{},"V6":false}`)
	r.must(createNetwork, networkBody(net1, "", `{"AddressSpace":"drawbridge-local","Pool":"10.1.0.0/24","Gateway":"10.1.0.1/24"}`, ""))
	ask := func(addr string) string {
		return fmt.Sprintf(`{"PoolID":%q,"Address":%q,"Options":null}`, r.ipam.Pools()[0].ID, addr)
	}
	begin := func(id, addr string) {
		r.must(requestAddress, ask(addr))
		r.must(createEndpoint, endpointBody(net1, id, addr+"/24", "", ""))
	}
	begin(ep1, "10.1.0.11")
	r.must(join, idsBody(net1, ep1, sandbox))
	begin(ep2, "10.1.0.12")
	r.must(join, idsBody(net1, ep2, otherSandbox))
	r.host.Delete("link dbve2e2e2e2e2e2")
	r.refused(requestAddress, ask("10.1.0.12"), "leased") // said by the engine that lives
	r.restart()
	begin(ep3, "10.1.0.13")

	r.refused(requestAddress, ask("10.1.0.11"), "leased") // somebody is in it
	r.must(requestAddress, ask("10.1.0.12"))
	r.refused(requestAddress, ask("10.1.0.13"), "leased") // it is about to be joined
	r.must(join, idsBody(net1, ep3, sandbox))
}

// TestAnotherEnginesLifeBeginsWithoutWhatTheOneBeforeDidNotUse and with all that it used.
func TestAnotherEnginesLifeBeginsWithoutWhatTheOneBeforeDidNotUse(t *testing.T) {
	r := newRig(t)
	w := r.dial()
	n, err := w.create(net1)
	if err != nil {
		t.Fatal(err)
	}
	address := func() string {
		return w.must(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"","Options":{}}`, n.poolID))["Address"].(string)
	}
	joined, created, _ := address(), address(), address()
	w.must(createEndpoint, endpointBody(net1, ep1, joined, "", ""))
	w.must(join, idsBody(net1, ep1, sandbox))
	w.must(createEndpoint, endpointBody(net1, ep2, created, "", ""))
	ask := func() error {
		_, err := w.call(requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.99.0.0/24","SubPool":"","Options":{},"V6":false}`)
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil {
		t.Error("a pool is given away twice in one engine's life")
	}

	w.must("/Plugin.Activate", "")
	state := r.engine.Now().State
	left, err := state.Network(spec.ID(net1))
	if err != nil || left.Endpoints.Len() != 1 {
		t.Fatalf("network %+v, %v; want the endpoint that was joined alone", left, err)
	}
	if _, _, err := state.Endpoint(spec.ID(net1), spec.ID(ep1)); err != nil {
		t.Error(err)
	}
	for _, p := range r.ipam.Pools() {
		if p.ID == n.poolID && (len(p.Leases) != 1 || p.Leases[0].Addr != netip.MustParsePrefix(joined).Addr()) {
			t.Errorf("addresses %v, want %s", p.Leases, joined)
		}
	}
	if err := ask(); err != nil {
		t.Errorf("a pool that nobody used: %v", err)
	}
}

// TestARemovalThatCannotBeSavedIsToldAndCanBeRepeated on a disk that is full or read-only.
// Docker takes no notice, so the network is one of those that status names.
func TestARemovalThatCannotBeSavedIsToldAndCanBeRepeated(t *testing.T) {
	r := newRig(t)
	r.dual()
	host := r.onHost()
	r.store.Fail(fmt.Errorf("write /var/lib/drawbridge/state.db: %w", syscall.EROFS))
	r.refused(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1), "delete network 1a1a1a1a1a1a", "write /var/lib/drawbridge/state.db: read-only file system")
	if got := r.onHost(); got != host {
		t.Errorf("the host has become\n%s\nwant\n%s", got, host)
	}
	r.store.Fail(nil)
	r.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net1))
	if left := r.onHost(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
}
