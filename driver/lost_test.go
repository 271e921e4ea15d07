package driver_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// TestWhatLostItsAnswerGoesWithWhatItWasMadeOf is about an engine that believes that a
// network or an endpoint could not be made, since our answer was lost: it takes back the
// addresses and pools, and never speaks of the thing itself.
func TestWhatLostItsAnswerGoesWithWhatItWasMadeOf(t *testing.T) {
	r := newRig(t)
	w := r.dial(nil)
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
	if left := r.host.String(); left != "" {
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
	if r.host.String() == "" {
		t.Error("the next network went with the pool of the first")
	}
	w.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, net2)) // and the release was lost
	if left := r.ipam.Pools(); left != nil {
		t.Errorf("left of the pools: %v", left)
	}
}
