package conntrack

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// machine is a namespace with the layer, and what Docker asked of it.
type machine struct {
	*lab.Host
	*Table
	t     testing.TB
	state spec.State
	facts plan.Host
	have  *plan.Plan
}

// newMachine has the network 172.30.1.0/24 and fd00:30:1::/64 on it, and nothing else.
func newMachine(t testing.TB, h *lab.Host) *machine {
	t.Helper()
	m := &machine{Host: h, Table: newTable(t, h), t: t, facts: plan.Host{IPv6: true}}
	m.must(m.state.AddNetwork(&spec.Network{ID: id("a"), Pools: []spec.Pool{
		{Prefix: netip.MustParsePrefix("172.30.1.0/24"), Gateway: netip.MustParseAddr("172.30.1.1")},
		{Prefix: netip.MustParsePrefix("fd00:30:1::/64"), Gateway: netip.MustParseAddr("fd00:30:1::1")},
	}}))
	return m
}

func newTable(t testing.TB, h *lab.Host) *Table {
	t.Helper()
	var table *Table
	h.Do(func() { table = New() })
	t.Cleanup(table.Close)
	if table.refused != nil {
		t.Skipf("the kernel lacks netlink for connection tracking: %v", table.refused)
	}
	return table
}

func id(name string) spec.ID { return spec.ID(strings.Repeat(name, 24)[:24]) }

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// endpoint adds one with the addresses of both families that end in last.
func (m *machine) endpoint(name string, last int) {
	m.t.Helper()
	m.must(m.state.AddEndpoint(id("a"), &spec.Endpoint{
		ID:   id(name),
		IPv4: netip.MustParsePrefix(fmt.Sprintf("172.30.1.%d/24", last)),
		IPv6: netip.MustParsePrefix(fmt.Sprintf("fd00:30:1::%x/64", last)),
	}))
}

// joined adds an endpoint with a sandbox.
func (m *machine) joined(name string, last int) {
	m.t.Helper()
	m.endpoint(name, last)
	m.must(m.state.Join(id("a"), id(name), "/run/docker/netns/"+name))
}

// publish gives an endpoint these ports, and no others.
func (m *machine) publish(name string, ports ...spec.Port) {
	m.t.Helper()
	m.must(m.state.Publish(id("a"), id(name), ports, false))
}

// apply makes the host match what was asked for, as a request does.
func (m *machine) apply() {
	m.t.Helper()
	want := plan.New(m.state, &m.facts)
	m.must(m.Apply(context.Background(), m.have, want))
	m.have = want
}

// flow makes an entry: source talks to target, and back answers.
func (m *machine) flow(source, target, back string) {
	m.t.Helper()
	m.flowInZone(source, target, back, 0)
}

func (m *machine) flowInZone(source, target, back string, zone uint16) {
	m.t.Helper()
	e := entry{proto: spec.UDP, client: netip.MustParseAddrPort(source), asked: netip.MustParseAddrPort(target), server: netip.MustParseAddrPort(back)}
	m.must(m.create(family(e.client.Addr()), e.attributes(zone, time.Hour)))
}

// usual makes entries of an endpoint in all positions: as a client, behind a published
// port, and reached by its own address.
func (m *machine) usual(last int) {
	m.t.Helper()
	v4, v6, port := fmt.Sprintf("172.30.1.%d", last), fmt.Sprintf("[fd00:30:1::%x]", last), 8000+last
	m.flow(v4+":1000", "192.0.2.2:53", "192.0.2.2:53")
	m.flow(v6+":1000", "[2001:db8:1::2]:53", "[2001:db8:1::2]:53")
	m.flow("192.0.2.2:1000", fmt.Sprintf("192.0.2.1:%d", port), v4+":80")
	m.flow("[2001:db8:1::2]:1000", fmt.Sprintf("[2001:db8:1::1]:%d", port), v6+":80")
	m.flow("192.0.2.2:1001", v4+":80", v4+":80")
	m.flow("[2001:db8:1::2]:1001", v6+":80", v6+":80")
}

// sources counts the entries by the sources of their two directions.
func (m *machine) sources() map[string]int {
	m.t.Helper()
	all := map[string]int{}
	m.must(m.dump(unix.AF_UNSPEC, nil, func(e entry) {
		zone := ""
		if e.zoned {
			zone = " in another zone"
		}
		all[fmt.Sprintf("[%s %s]%s", e.client.Addr(), e.server.Addr(), zone)]++
	}))
	return all
}

// changes runs f and returns the entries that went, one a line.
func (m *machine) changes(f func()) []string {
	m.t.Helper()
	before := m.sources()
	f()
	after := m.sources()
	var gone []string
	for _, s := range slices.Sorted(maps.Keys(before)) {
		for range before[s] - after[s] {
			gone = append(gone, s)
		}
		delete(after, s)
	}
	if len(after) > 0 {
		m.t.Errorf("entries appeared: %v", after)
	}
	return gone
}

// ofEndpoint are the entries that usual made of an endpoint.
func ofEndpoint(last int) []string {
	v4, v6 := fmt.Sprintf("172.30.1.%d", last), fmt.Sprintf("fd00:30:1::%x", last)
	all := []string{
		"[" + v4 + " 192.0.2.2]", "[" + v6 + " 2001:db8:1::2]",
		"[192.0.2.2 " + v4 + "]", "[192.0.2.2 " + v4 + "]",
		"[2001:db8:1::2 " + v6 + "]", "[2001:db8:1::2 " + v6 + "]",
	}
	slices.Sort(all)
	return all
}

func (m *machine) equal(what string, want, got []string) {
	m.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
