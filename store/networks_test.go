package store_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/store"
)

func networkID(i int) spec.ID  { return spec.ID(fmt.Sprintf("%012x%052x", 0xabc000+i, 1)) }
func endpointID(i int) spec.ID { return spec.ID(fmt.Sprintf("%012x%052x", 0xdef000+i, 2)) }

func network(i int) *spec.Network {
	return &spec.Network{
		ID: networkID(i), MTU: 1400 + i, Masquerade: true, InterfacePrefix: "eth",
		Pools: []spec.Pool{
			{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(i), 0}), 24), Gateway: netip.AddrFrom4([4]byte{172, 30, byte(i), 1})},
			{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:30:%x::/64", i))},
		},
	}
}

func member(net, i int) *spec.Endpoint {
	return &spec.Endpoint{
		ID:   endpointID(1000*net + i),
		IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(net), byte(2 + i)}), 24),
		IPv6: netip.MustParsePrefix(fmt.Sprintf("fd00:30:%x::%x/64", net, 2+i)),
		MAC:  spec.MAC{2, 0x42, 0, 0, byte(net), byte(i)},
	}
}

// sample is one network with one endpoint that has everything.
func sample(t testing.TB) spec.State {
	t.Helper()
	var s spec.State
	n, ep := network(1), member(1, 1)
	ep.InterfaceName, ep.Sandbox = "web9", "/var/run/docker/netns/1eee51bd70de"
	ep.Ports = []spec.Port{
		{Proto: spec.TCP, HostPort: 8080, ContainerPort: 80, Count: 1},
		{Proto: spec.UDP, Host: netip.MustParseAddr("127.0.0.1"), HostPort: 9000, ContainerPort: 9000, Count: 100},
	}
	for _, err := range []error{s.AddNetwork(n), s.AddEndpoint(n.ID, ep)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// text is all of a State in one order.
func text(t interface{ Fatal(...any) }, s spec.State) string {
	var b strings.Builder
	print := func(v any) {
		line, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", line)
	}
	for _, n := range s.Networks.All() {
		print(n)
		for _, ep := range n.Endpoints.All() {
			print(ep)
		}
	}
	return b.String()
}

func wantState(t testing.TB, s *store.Store, want spec.State) {
	t.Helper()
	if got, want := text(t, loaded(t, s)), text(t, want); got != want {
		t.Errorf("state (-want +got):\n- %s+ %s", want, got)
	}
}

func TestEverythingOfAStateComesBack(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	want := sample(t)
	save(t, s, spec.State{}, want)
	closed(t, s)
	s = h.open(t)
	wantState(t, s, want)
	noNotices(t, s)

	state := loaded(t, s)
	ep := member(1, 2)
	ep.Ports = []spec.Port{{Proto: spec.UDP, HostPort: 9050, ContainerPort: 1, Count: 1}}
	if err := state.AddEndpoint(networkID(1), ep); err == nil {
		t.Error("a loaded State gave a published port away")
	}
}

// saveMany saves so many endpoints, some with so many ports, and deletes so many
// again that every kind of page is in the file. It returns what is left.
func saveMany(t testing.TB, s *store.Store) spec.State {
	t.Helper()
	var full spec.State
	for n := range 8 {
		if err := full.AddNetwork(network(n)); err != nil {
			t.Fatal(err)
		}
		for e := range 100 {
			ep := member(n, e)
			for i := range uint16(500) {
				if e == 50 {
					ep.Ports = append(ep.Ports, spec.Port{Proto: spec.UDP, HostPort: 1000*uint16(n+1) + 2*i, ContainerPort: 1 + i, Count: 1})
				}
			}
			if err := full.AddEndpoint(networkID(n), ep); err != nil {
				t.Fatal(err)
			}
		}
	}
	save(t, s, spec.State{}, full)
	left := full
	for n := range 8 {
		for e := range 60 {
			left.RemoveEndpoint(networkID(n), member(n, e*7%100).ID)
		}
	}
	save(t, s, full, left)
	return left
}

func TestManyEndpointsComeBack(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	want := saveMany(t, s)
	closed(t, s)
	s = h.open(t)
	wantState(t, s, want)
	noNotices(t, s)
}

// TestWhateverHappensIsWhatComesBack makes random changes, saves each, opens the
// files anew now and then, and compares.
func TestWhateverHappensIsWhatComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			r.Fatal(err)
		}
		h := &home{dir, dir, "boot-1"}
		s := h.open(t)
		var state spec.State
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			next := state
			if err := change(r, &next); err != nil {
				continue // refused: the engine saves nothing
			}
			save(t, s, state, next)
			state = next
			if rapid.IntRange(0, 4).Draw(r, "reopen") == 0 {
				closed(t, s)
				s = h.open(t)
			}
			if got, want := text(r, loaded(t, s)), text(r, state); got != want {
				r.Fatalf("state (-want +got):\n- %s+ %s", want, got)
			}
		}
		noNotices(t, s)
		closed(t, s)
	})
}

func change(r *rapid.T, s *spec.State) error {
	n, e := rapid.IntRange(0, 2).Draw(r, "network"), rapid.IntRange(0, 3).Draw(r, "endpoint")
	id, ep := networkID(n), member(n, e)
	switch rapid.IntRange(0, 7).Draw(r, "change") {
	case 0:
		s.RemoveNetwork(id)
	case 1:
		s.RemoveEndpoint(id, ep.ID)
	case 2:
		return s.Join(id, ep.ID, "/run/netns/x")
	case 3:
		s.Leave(id, ep.ID)
	case 4:
		first, count := rapid.Uint16Range(1, 9).Draw(r, "port"), rapid.Uint16Range(1, 3).Draw(r, "count")
		return s.Publish(id, ep.ID, []spec.Port{{Proto: spec.TCP, HostPort: first, ContainerPort: first, Count: count}}, false)
	case 5:
		return s.AddNetwork(network(n))
	default:
		return s.AddEndpoint(id, ep)
	}
	return nil
}

func TestCrashBetweenTheFilesLeavesNoStrayEndpoint(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	full := sample(t)
	save(t, s, spec.State{}, full)
	boot, err := os.ReadFile(h.bootDB())
	if err != nil {
		t.Fatal(err)
	}
	save(t, s, full, spec.State{})
	closed(t, s)
	if err := os.WriteFile(h.bootDB(), boot, 0o600); err != nil {
		t.Fatal(err)
	}
	s = h.open(t)
	wantState(t, s, spec.State{})
	wantNotice(t, s, "boot.db", "1 endpoints are left out")
}

// TestRecordThatTheRulesRefuseHarmsNoOther saves two States that cannot be one.
func TestRecordThatTheRulesRefuseHarmsNoOther(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	first, second := sample(t), spec.State{}
	clash := network(1)
	clash.ID = networkID(9)
	for _, err := range []error{second.AddNetwork(clash), second.AddNetwork(network(2))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	save(t, s, spec.State{}, first)
	save(t, s, spec.State{}, second)
	state := loaded(t, s)
	if got := state.Networks.Len(); got != 2 {
		t.Errorf("%d networks, want 2:\n%s", got, text(t, state))
	}
	if _, _, err := state.Endpoint(networkID(1), endpointID(1001)); err != nil {
		t.Error(err)
	}
	wantNotice(t, s, "state.db: network "+string(networkID(9))+" is left out: ", "overlaps")
}

func TestFailureOnOneFileUndoesTheOther(t *testing.T) {
	h := newHome(t)
	s := h.open(t)
	full := sample(t)
	// A name that bbolt cannot store, below boot.db's endpoints only.
	long := member(1, 2)
	long.ID = spec.ID(strings.Repeat("a", 40000))
	broken := full
	if err := broken.AddEndpoint(networkID(1), long); err != nil {
		t.Fatal(err)
	}
	if err := s.Networks().Save(spec.State{}, broken); err == nil || !strings.Contains(err.Error(), h.bootDB()) {
		t.Errorf("error %v, want one that names %s", err, h.bootDB())
	}
	wantState(t, s, spec.State{})
	noNotices(t, s)
}

func BenchmarkSaveOneEndpoint(b *testing.B) {
	h := &home{b.TempDir(), b.TempDir(), "boot-1"}
	s := h.open(b)
	var state spec.State
	for n := range 50 {
		if err := state.AddNetwork(network(n)); err != nil {
			b.Fatal(err)
		}
		for e := range 100 {
			if err := state.AddEndpoint(networkID(n), member(n, e)); err != nil {
				b.Fatal(err)
			}
		}
	}
	save(b, s, spec.State{}, state)
	with := state
	if err := with.AddEndpoint(networkID(7), member(7, 200)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		save(b, s, state, with)
		save(b, s, with, state)
	}
}
