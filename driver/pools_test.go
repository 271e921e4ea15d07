package driver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
)

// wire is an engine's end of the plugin socket.
type wire struct {
	t      *testing.T
	client *http.Client
	path   string // of the socket
}

// dialer reaches a socket, whatever the address.
func dialer(path string) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

// dial serves the rig's driver on a socket, with pools chosen on a host with obstacles.
func (r *rig) dial(obstacles ...ipam.Obstacle) *wire {
	r.t.Helper()
	pools, err := ipam.New(ipam.Config{
		Store: &ipamtest.Memory{},
		Host:  func() ([]ipam.Obstacle, error) { return obstacles, nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.ipam = pools
	path := filepath.Join(r.t.TempDir(), "drawbridge.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- driver.New(r.engine, r.ipam, r.onLink, r.logger).Serve(ctx, l) }()
	transport := &http.Transport{DialContext: dialer(path)}
	r.t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			r.t.Error(err)
		}
	})
	return &wire{r.t, &http.Client{Transport: transport}, path}
}

// call posts a request and returns the strings in the answer, or the refusal.
func (w *wire) call(call, body string) (map[string]any, error) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://drawbridge"+call, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		w.t.Fatal(err)
	}
	answer := map[string]any{}
	if err := json.Unmarshal(text.Bytes(), &answer); err != nil {
		w.t.Fatalf("%s: %v: %s", call, err, &text)
	}
	if refused, ok := answer["Error"].(string); ok {
		return nil, errors.New(refused)
	}
	return answer, nil
}

func (w *wire) must(call, body string) map[string]any {
	w.t.Helper()
	answer, err := w.call(call, body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", call, body, err)
	}
	return answer
}

// An asked network is what an engine keeps of one.
type asked struct {
	id            string // "" if another driver made it, of which we are not told
	poolID        string
	pool, gateway string // e.g. 10.208.0.0/24 and 10.208.0.1/24
}

// pool asks for a pool as an engine from 27 on does, which asks for the address
// spaces each time.
func (w *wire) pool(v6 bool) (asked, error) {
	w.t.Helper()
	space := w.must("/IpamDriver.GetDefaultAddressSpaces", "")["LocalDefaultAddressSpace"]
	answer, err := w.call(requestPool, fmt.Sprintf(`{"AddressSpace":%q,"Pool":"","SubPool":"","Options":{},"V6":%t}`, space, v6))
	if err != nil {
		return asked{}, err
	}
	return asked{poolID: answer["PoolID"].(string), pool: answer["Pool"].(string)}, nil
}

// gatewayOf asks for the gateway of a pool.
func (w *wire) gatewayOf(a *asked) {
	w.t.Helper()
	a.gateway = w.must(requestAddress, fmt.Sprintf(`{"PoolID":%q,"Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, a.poolID))["Address"].(string)
}

// create makes a network as engines do: a pool, its gateway and, if it is of our
// network driver, the network.
func (w *wire) create(id string) (asked, error) {
	w.t.Helper()
	a, err := w.pool(false)
	if err != nil {
		return a, err
	}
	w.gatewayOf(&a)
	if a.id = id; id != "" {
		w.must(createNetwork, networkBody(id, "", fmt.Sprintf(`{"AddressSpace":"drawbridge-local","Pool":%q,"Gateway":%q}`, a.pool, a.gateway), ""))
	}
	return a, nil
}

// remove takes a network back, in the engines' order.
func (w *wire) remove(a asked) {
	w.t.Helper()
	w.must(releaseAddress, fmt.Sprintf(`{"PoolID":%q,"Address":%q}`, a.poolID, netip.MustParsePrefix(a.gateway).Addr()))
	w.must(releasePool, fmt.Sprintf(`{"PoolID":%q}`, a.poolID))
	if a.id != "" {
		w.must(deleteNetwork, fmt.Sprintf(`{"NetworkID":%q}`, a.id))
	}
}

// TestFourThousandPoolsOverTheWire goes on until the default ranges are spent. Every
// tenth network is of our network driver, the others are of Docker's.
func TestFourThousandPoolsOverTheWire(t *testing.T) {
	r := newRig(t)
	w := r.dial()
	var all []asked
	var spent error
	pools := map[string]bool{}
	for {
		id := ""
		if len(all)%10 == 0 {
			id = fmt.Sprintf("%012x%052d", len(all), 0)
		}
		var a asked
		if a, spent = w.create(id); spent != nil {
			break
		}
		gateway := netip.MustParsePrefix(a.gateway)
		if pools[a.pool] || gateway.Masked().String() != a.pool || gateway.Masked().Addr().Next() != gateway.Addr() {
			t.Fatalf("network %d has %+v", len(all), a)
		}
		pools[a.pool] = true
		all = append(all, a)
	}
	if len(all) < 4000 {
		t.Fatalf("%d pools, then: %v", len(all), spent)
	}
	for _, part := range []string{"172.30.0.0/16", "10.208.0.0/12", fmt.Sprintf("pools in use: %d", len(all))} {
		if !strings.Contains(spent.Error(), part) {
			t.Errorf("when all is spent: want %q in %v", part, spent)
		}
	}
	for _, a := range all {
		w.remove(a)
	}
	if left := r.ipam.Pools(); left != nil {
		t.Errorf("%d pools are left", len(left))
	}
	if left := r.onHost(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
}

// TestTheSixtyFifthTryIsRefusedOverTheWire is an engine that dislikes what it gets: it
// keeps every pool and asks again, without a gateway in between.
func TestTheSixtyFifthTryIsRefusedOverTheWire(t *testing.T) {
	r := newRig(t)
	w := r.dial(ipam.Obstacle{Prefix: netip.MustParsePrefix("172.16.0.0/12"), What: "route 172.16.0.0/12 by tun0", Weak: true},
		ipam.Obstacle{Prefix: netip.MustParsePrefix("10.0.0.0/8"), What: "route 10.0.0.0/8 by tun1", Weak: true})
	var kept []asked
	for {
		a, err := w.pool(false)
		if err != nil {
			if len(kept) != 64 || !strings.Contains(err.Error(), "route 172.16.0.0/12 by tun0") {
				t.Fatalf("after %d tries: %v", len(kept), err)
			}
			break
		}
		kept = append(kept, a)
	}
	// A size is no try: what is asked for so, an engine takes.
	for range 70 {
		w.must(requestPool, `{"AddressSpace":"drawbridge-local","Pool":"0.0.0.0/26","SubPool":"","Options":{},"V6":false}`)
	}
	if _, err := w.pool(true); err != nil {
		t.Errorf("the other family: %v", err)
	}
	for _, a := range kept {
		w.must(releasePool, fmt.Sprintf(`{"PoolID":%q}`, a.poolID))
	}
	if _, err := w.pool(false); err != nil {
		t.Errorf("the next creation: %v", err)
	}
}

// TestAnAddressOfWhatNeverCameToBeIsGivenAgain is about a managed plugin and its engine,
// which died on the way from the address to the endpoint and ask anew.
func TestAnAddressOfWhatNeverCameToBeIsGivenAgain(t *testing.T) {
	r := newRig(t)
	store := &ipamtest.Memory{}
	begin := func() {
		t.Helper()
		var err error
		r.ipam, err = ipam.New(ipam.Config{Store: store, Host: func() ([]ipam.Obstacle, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		r.handler = driver.New(r.engine, r.ipam, r.onLink, r.logger).Handler()
	}
	begin()
	r.must(requestPool, `{"AddressSpace":"drawbridge-local","Pool":"10.101.0.0/24","SubPool":"","Options":{},"V6":false}`)
	r.must(createNetwork, networkBody(net1, "", `{"AddressSpace":"drawbridge-local","Pool":"10.101.0.0/24","Gateway":"10.101.0.1/24"}`, ""))
	ask := fmt.Sprintf(`{"PoolID":%q,"Address":"10.101.0.9","Options":null}`, r.ipam.Pools()[0].ID)
	r.must(requestAddress, ask)
	r.refused(requestAddress, ask, "10.101.0.9", "leased")
	begin()
	r.must(requestAddress, ask)
	r.refused(requestAddress, ask, "10.101.0.9", "leased")
}
