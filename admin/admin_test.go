package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/admin"
	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// host is a Store that forgets, an Observer of a host that forwards nothing, and a
// Layer that knows how many planned links somebody has taken away.
type host struct {
	missing []plan.Drift
	blind   bool  // of the firewall
	ipv6    bool  // of the kernel
	without bool  // a firewall
	fails   error // of Apply
	removed bool
	mends   int // looks after which nothing is missing any more, 0 for never
}

func (h *host) Load() (spec.State, error)  { return spec.State{}, nil }
func (h *host) Save(_, _ spec.State) error { return nil }
func (h *host) Look(context.Context) (*plan.Host, error) {
	if h.mends--; h.mends == 0 {
		h.missing = nil
	}
	return &plan.Host{Uplinks: []plan.HostLink{{Name: "eth0"}}, Blind: h.blind, IPv6: h.ipv6, NoFirewall: h.without}, nil
}

func (h *host) Exists(link string) (exists, used bool, err error) {
	return !strings.HasPrefix(link, "dbp"), false, nil // the other end of a pair is in its container
}

func (h *host) Gateway(string) (netip.Addr, error)                      { return netip.Addr{}, nil }
func (h *host) Bound(string) bool                                       { return false }
func (h *host) Apply(context.Context, *plan.Plan, *plan.Plan) error     { return h.fails }
func (h *host) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return h.missing, nil }
func (h *host) Mend(context.Context, *plan.Plan, spec.ID) error         { return h.fails }
func (h *host) Remove(context.Context) error                            { h.removed = true; return nil }

type daemon struct {
	host   *host
	engine *engine.Engine
	pools  *ipam.Allocator
	client *admin.Client
	ended  chan struct{}
}

func start(t *testing.T) *daemon {
	t.Helper()
	return startOn(t, &host{})
}

func startOn(t *testing.T, h *host) *daemon {
	t.Helper()
	log, _ := test.NewNullLogger()
	d := &daemon{host: h, ended: make(chan struct{}, 1)}
	d.engine = engine.New(d.host, d.host, engine.Layers{Links: d.host}, nil, log)
	must(t, d.engine.Start(context.Background()))
	pools, err := ipam.New(ipam.Config{Store: &ipamtest.Memory{}, Host: func() ([]ipam.Obstacle, error) { return nil, nil }})
	must(t, err)
	d.pools = pools
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	s := &admin.Server{
		Engine: d.engine, Pools: pools, Version: "v1", Driver: "other", Firewall: chosen, Warnings: d.warnings, Notices: func() []string { return nil }, Obstacles: obstacles,
		Log: logrus.FieldLogger(log), Forget: func() error { return nil }, Removed: func() { d.ended <- struct{}{} },
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: s.Handler()}}
	server.Start()
	t.Cleanup(server.Close)
	d.client = admin.NewClient(socket)
	return d
}

var chosen = admin.Firewall{Backend: "iptables-nft", Reason: "as told"} //nolint:gochecknoglobals // a constant

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	networkID  = "3f2a9c0d11ee00000000000000000000000000000000000000000000000000aa"
	endpointID = "9b01c2d3e4f500000000000000000000000000000000000000000000000000bb"
)

// publish gives the daemon a network with one container that publishes.
func (d *daemon) publish(t *testing.T) {
	t.Helper()
	must(t, d.engine.Do(t.Context(), "", func(s *spec.State) error {
		return errors.Join(
			s.AddNetwork(&spec.Network{ID: networkID, Masquerade: true, Pools: []spec.Pool{
				{Prefix: netip.MustParsePrefix("172.30.0.0/24"), Gateway: netip.MustParseAddr("172.30.0.1")},
				{Prefix: netip.MustParsePrefix("fd00:30::/64"), Gateway: netip.MustParseAddr("fd00:30::1")},
			}}),
			s.AddEndpoint(networkID, &spec.Endpoint{
				ID: endpointID, MAC: spec.MAC{2, 0, 0, 0, 0, 1},
				IPv4: netip.MustParsePrefix("172.30.0.2/24"), IPv6: netip.MustParsePrefix("fd00:30::2/64"),
			}),
			s.Publish(networkID, endpointID, []spec.Port{
				{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1},
				{Proto: spec.UDP, Host: netip.MustParseAddr("127.0.0.1"), HostPort: 9000, ContainerPort: 9000, Count: 10},
			}, false),
		)
	}))
}

func TestOperatorSeesNetworksAndEndpoints(t *testing.T) {
	d := start(t)
	d.publish(t)
	networks, err := d.client.Networks(t.Context())
	must(t, err)
	if diff := cmp.Diff([]admin.Network{{
		ID: networkID, Bridge: "dbr3f2a9c0d11ee", Subnets: []string{"172.30.0.0/24", "fd00:30::/64"},
		Gateways: []string{"172.30.0.1", "fd00:30::1"}, MTU: 1500, Endpoints: 1,
	}}, networks); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	endpoints, err := d.client.Endpoints(t.Context())
	must(t, err)
	if diff := cmp.Diff([]admin.Endpoint{{
		ID: endpointID, Network: networkID, Addresses: []string{"172.30.0.2/24", "fd00:30::2/64"}, MAC: "02:00:00:00:00:01", Link: "dbv9b01c2d3e4f5", Idle: true,
		Ports: []string{"127.0.0.1:9000-9009->9000-9009/udp", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"},
	}}, endpoints, cmp.Transformer("sorted", func(in []string) map[string]bool {
		set := map[string]bool{}
		for _, s := range in {
			set[s] = true
		}
		return set
	})); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	text, err := d.client.Plan(t.Context())
	must(t, err)
	if !strings.Contains(text, "dnat tcp 0.0.0.0:8080 to 172.30.0.2:80") {
		t.Errorf("the plan does not show the published port:\n%s", text)
	}
}

func TestOperatorSeesWhatTheProxyAloneServes(t *testing.T) {
	for _, c := range []struct {
		host *host
		ipv6 string // the container's
		want []string
	}{
		{&host{ipv6: true}, "fd00:30::2/64", []string{"0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "[::1]:8081->80/tcp (proxy)"}},
		{&host{ipv6: true}, "", []string{"0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp (proxy)", "[::1]:8081->80/tcp (proxy)"}},
		{&host{ipv6: true, without: true}, "fd00:30::2/64", []string{"0.0.0.0:8080->80/tcp (proxy)", "[::]:8080->80/tcp (proxy)", "[::1]:8081->80/tcp (proxy)"}},
		{&host{}, "", []string{"0.0.0.0:8080->80/tcp"}},
	} {
		d := startOn(t, c.host)
		must(t, d.engine.Do(t.Context(), "", func(s *spec.State) error {
			e := &spec.Endpoint{ID: endpointID, IPv4: netip.MustParsePrefix("172.30.0.2/24")}
			if c.ipv6 != "" {
				e.IPv6 = netip.MustParsePrefix(c.ipv6)
			}
			return errors.Join(
				s.AddNetwork(&spec.Network{ID: networkID, Pools: []spec.Pool{{Prefix: netip.MustParsePrefix("172.30.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00:30::/64")}}}),
				s.AddEndpoint(networkID, e),
				s.Publish(networkID, endpointID, []spec.Port{
					{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1},
					{Proto: spec.TCP, Host: netip.IPv6Loopback(), HostPort: 8081, ContainerPort: 80, Count: 1},
				}, false),
			)
		}))
		endpoints, err := d.client.Endpoints(t.Context())
		must(t, err)
		if diff := cmp.Diff(c.want, endpoints[0].Ports, cmpopts.SortSlices(strings.Compare)); diff != "" {
			t.Errorf("%+v, container's IPv6 %q: ports (-want +got):\n%s", c.host, c.ipv6, diff)
		}
	}
}

func TestOperatorSeesPortsThatNoPortOfTheHostLeadsTo(t *testing.T) {
	d := start(t)
	d.publish(t)
	must(t, d.engine.Do(t.Context(), "", func(s *spec.State) error {
		s.Unpublish(networkID, endpointID)
		return s.Open(networkID, endpointID, []spec.Port{
			{Proto: spec.TCP, Host: netip.IPv4Unspecified(), HostPort: 80, ContainerPort: 80, Count: 1},
			{Proto: spec.TCP, Host: netip.IPv6Unspecified(), HostPort: 80, ContainerPort: 80, Count: 1},
			{Proto: spec.UDP, Host: netip.IPv6Unspecified(), HostPort: 5000, ContainerPort: 5000, Count: 11},
		})
	}))
	endpoints, err := d.client.Endpoints(t.Context())
	must(t, err)
	if diff := cmp.Diff([]string{"80/tcp", "5000-5010/udp"}, endpoints[0].Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}

// TestStatusNamesADifferenceOnce has one that is remembered, too.
func TestStatusNamesADifferenceOnce(t *testing.T) {
	gone := plan.Drift{Object: "link dbr3f2a9c0d11ee", Field: "mtu", Want: "1500", Got: "1400"}
	d := start(t)
	d.host.fails = errors.Join(&plan.ObjectError{Object: gone.Object, Err: errors.New("busy")}, &plan.ObjectError{Object: "sysctl", Err: errors.New("read-only")})
	d.publish(t)
	d.host.missing = []plan.Drift{gone}
	got, err := d.client.Status(t.Context())
	must(t, err)
	if diff := cmp.Diff([]plan.Drift{gone, {Object: "sysctl", Field: "apply", Want: "done", Got: "read-only"}}, got.Drift); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
}

func TestStatusNamesWhatDiffersOnTheHost(t *testing.T) {
	d := start(t)
	d.publish(t)
	d.host.missing = []plan.Drift{{Object: "link dbr3f2a9c0d11ee", Field: "mtu", Want: "1500", Got: "1400"}}
	got, err := d.client.Status(t.Context())
	must(t, err)
	want := admin.Status{Version: "v1", Driver: "other", Firewall: chosen, Networks: 1, Endpoints: 1, LoosePools: []string{}, Warnings: []string{"1 network is cut off"}, Drift: d.host.missing, Notices: got.Notices}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if all := strings.Join(got.Notices, "\n"); !strings.Contains(all, "eth0") {
		t.Errorf("the notices do not say that forwarding is on for eth0:\n%s", all)
	}
}

// TestStatusSaysNothingOfWhatIsBeingMended by the time that it looks again.
func TestStatusSaysNothingOfWhatIsBeingMended(t *testing.T) {
	d := start(t)
	d.host.missing = []plan.Drift{{Object: "link dbr3f2a9c0d11ee", Field: "mtu", Want: "1500", Got: "1400"}}
	d.host.mends = 2
	got, err := d.client.Status(t.Context())
	must(t, err)
	if len(got.Drift) > 0 {
		t.Errorf("want no word of what was mended meanwhile, got %v", got.Drift)
	}
}

// TestStatusSaysWhoKeepsContainersApartWhereTheFirewallIsBlind once there are such.
func TestStatusSaysWhoKeepsContainersApartWhereTheFirewallIsBlind(t *testing.T) {
	d := startOn(t, &host{blind: true})
	for _, apart := range []bool{false, true} {
		must(t, d.engine.Do(t.Context(), "", func(s *spec.State) error {
			s.RemoveNetwork(networkID)
			return s.AddNetwork(&spec.Network{ID: networkID, Apart: apart})
		}))
		got, err := d.client.Status(t.Context())
		must(t, err)
		if all := strings.Join(got.Notices, "\n"); strings.Contains(all, "by their bridge's ports, which count nothing") != apart {
			t.Errorf("apart %t: %s", apart, all)
		}
	}
}

// warnings are about a host where somebody drops all.
func (d *daemon) warnings() []string {
	networks := d.engine.Now().State.Networks.Len()
	if networks == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d network is cut off", networks)}
}

// obstacles is a host with a tunnel behind which others are.
func obstacles() ([]plan.Obstacle, error) {
	return []plan.Obstacle{{Prefix: netip.MustParsePrefix("172.16.0.0/12"), What: "route 172.16.0.0/12 by tun0", Weak: true}}, nil
}

func TestStatusNamesWhatASubnetTakesTheWayTo(t *testing.T) {
	d := start(t)
	d.publish(t)
	got, err := d.client.Status(t.Context())
	must(t, err)
	if all := strings.Join(got.Notices, "\n"); !strings.Contains(all, "subnet 172.30.0.0/24 overlaps route 172.16.0.0/12 by tun0") {
		t.Errorf("the notices do not name the tunnel's route:\n%s", all)
	}
}

func TestStatusOfAHostAsPlannedListsNothingAndNotNull(t *testing.T) {
	got, err := start(t).client.Status(t.Context())
	must(t, err)
	if got.Drift == nil || len(got.Drift) > 0 || got.Warnings == nil {
		t.Errorf("drift: %#v, warnings: %#v", got.Drift, got.Warnings)
	}
}

func TestOneNetworkIsRemovedWithItsPool(t *testing.T) {
	d := start(t)
	d.publish(t)
	_, err := d.pools.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("172.30.0.0/24")})
	must(t, err)
	must(t, d.pools.Use(networkID, ipam.Claim{Prefix: netip.MustParsePrefix("172.30.0.0/24")}))
	_, err = d.pools.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("172.31.0.0/24")})
	must(t, err)
	must(t, d.client.RemoveNetwork(t.Context(), networkID))
	if n, pools := d.engine.Now().State.Networks.Len(), d.pools.Pools(); n != 0 || len(pools) != 1 || pools[0].Network != "" {
		t.Errorf("%d networks and pools %v are left, want the other pool alone", n, pools)
	}
	if err := d.client.RemoveNetwork(t.Context(), networkID); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("once more: got %v, want that it is not found", err)
	}
}

// TestOneEndpointIsRemovedWithItsAddress although somebody is in it: the person has been
// told that Docker does not know it.
func TestOneEndpointIsRemovedWithItsAddress(t *testing.T) {
	d := start(t)
	d.publish(t)
	p, err := d.pools.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix("172.30.0.0/24")})
	must(t, err)
	must(t, d.pools.Use(networkID, ipam.Claim{Prefix: p.Prefix}))
	held := ipam.AddressRequest{Pool: p.ID, Addr: netip.MustParseAddr("172.30.0.2"), Owner: "one"}
	_, err = d.pools.RequestAddress(held)
	must(t, err)
	must(t, d.engine.Do(t.Context(), networkID, func(s *spec.State) error { return s.Join(networkID, endpointID, "/ns/1") }))
	if all, err := d.client.Endpoints(t.Context()); err != nil || len(all) != 1 || all[0].Idle {
		t.Errorf("endpoints %+v, %v; want one that somebody is in", all, err)
	}
	must(t, d.client.RemoveEndpoint(t.Context(), networkID, endpointID))
	state := d.engine.Now().State
	if n, err := state.Network(networkID); err != nil || n.Endpoints.Len() != 0 {
		t.Errorf("network %+v, %v; want that it is there and empty", n, err)
	}
	if _, err := d.pools.RequestAddress(held); err != nil {
		t.Errorf("its address: %v", err)
	}
	if err := d.client.RemoveEndpoint(t.Context(), networkID, endpointID); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("once more: got %v, want that it is not found", err)
	}
}

func TestPoolWithoutANetworkOfOursIsNamedAndGivenBack(t *testing.T) {
	d := start(t)
	d.publish(t)
	for _, prefix := range []string{"172.30.0.0/24", "172.31.0.0/24"} {
		p, err := d.pools.RequestPool(ipam.PoolRequest{Prefix: netip.MustParsePrefix(prefix)})
		must(t, err)
		_, err = d.pools.RequestAddress(ipam.AddressRequest{Pool: p.ID, Gateway: true})
		must(t, err)
	}
	must(t, d.pools.Use(networkID, ipam.Claim{Prefix: netip.MustParsePrefix("172.30.0.0/24")}))
	status, err := d.client.Status(t.Context())
	must(t, err)
	if diff := cmp.Diff([]string{"172.31.0.0/24"}, status.LoosePools); diff != "" {
		t.Errorf("loose pools (-want +got):\n%s", diff)
	}
	if err := d.client.RemovePool(t.Context(), netip.MustParsePrefix("172.30.0.0/24")); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("that of a network: got %v, want that it is not found", err)
	}
	must(t, d.client.RemovePool(t.Context(), netip.MustParsePrefix("172.31.0.0/24")))
	if pools := d.pools.Pools(); len(pools) != 1 || pools[0].Network != networkID {
		t.Errorf("pools %v are left, want that of the network", pools)
	}
}

func TestRemoveIsRefusedWhileThereAreNetworksUnlessForced(t *testing.T) {
	d := start(t)
	d.publish(t)
	if err := d.client.Remove(t.Context(), false); err == nil || !strings.Contains(err.Error(), "--force") || d.host.removed {
		t.Fatalf("removed %t, error %v; want a refusal that names --force", d.host.removed, err)
	}
	must(t, d.client.Remove(t.Context(), true))
	<-d.ended
	if n := d.engine.Now().State.Networks.Len(); n != 0 || !d.host.removed {
		t.Errorf("after removal %d networks are known, layers removed %t", n, d.host.removed)
	}
}

func TestWithoutADaemonTheClientSaysSo(t *testing.T) {
	c := admin.NewClient(filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Status(t.Context()); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}
