package spec_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/spec"
)

// id is an ID as long as Docker's that begins with a word.
func id(word string) spec.ID { return spec.ID(word + strings.Repeat("0", 64-len(word))) }

var (
	web, db    = id("web"), id("db")
	c1, c2, c3 = id("c1"), id("c2"), id("c3")
)

func pool(prefix string) spec.Pool {
	p := netip.MustParsePrefix(prefix)
	return spec.Pool{Prefix: p, Gateway: p.Addr().Next()}
}

func network(id spec.ID, pools ...string) *spec.Network {
	n := &spec.Network{ID: id, InterfacePrefix: "eth", Masquerade: true}
	for _, p := range pools {
		n.Pools = append(n.Pools, pool(p))
	}
	return n
}

// endpoint has up to one address of each family.
func endpoint(id spec.ID, addrs ...string) *spec.Endpoint {
	ep := &spec.Endpoint{ID: id, MAC: spec.MAC{2, 0, 0, 0, 0, 1}}
	for _, a := range addrs {
		if p := netip.MustParsePrefix(a); p.Addr().Is4() {
			ep.IPv4 = p
		} else {
			ep.IPv6 = p
		}
	}
	return ep
}

// port reads the notation of Port.String for single ports, e.g. 127.0.0.1:8080->80/tcp.
func port(t *testing.T, text string) spec.Port {
	t.Helper()
	i := strings.LastIndex(text, "->")
	at := strings.LastIndexByte(text[:i], ':')
	p := spec.Port{Count: 1, Proto: spec.TCP}
	switch {
	case strings.HasSuffix(text, "/udp"):
		p.Proto = spec.UDP
	case strings.HasSuffix(text, "/sctp"):
		p.Proto = spec.SCTP
	}
	if _, err := fmt.Sscanf(text[at+1:], "%d->%d/", &p.HostPort, &p.ContainerPort); err != nil {
		t.Fatalf("port %s: %v", text, err)
	}
	if host := strings.Trim(text[:at], "[]"); host != "*" {
		p.Host = netip.MustParseAddr(host)
	}
	if p.String() != text {
		t.Fatalf("port %s reads as %s", text, p)
	}
	return p
}

// step changes a State, or asks something of it.
type step func(t *testing.T, s *spec.State) error

func add(n *spec.Network) step {
	return func(_ *testing.T, s *spec.State) error { return s.AddNetwork(n) }
}

func attach(n spec.ID, ep *spec.Endpoint) step {
	return func(_ *testing.T, s *spec.State) error { return s.AddEndpoint(n, ep) }
}

func joins(n, ep spec.ID, sandbox string) step {
	return func(_ *testing.T, s *spec.State) error { return s.Join(n, ep, sandbox) }
}

func forfeit(n, ep spec.ID) step {
	return func(_ *testing.T, s *spec.State) error { return s.Forfeit(n, ep) }
}

func publish(n, ep spec.ID, ports ...string) step {
	return func(t *testing.T, s *spec.State) error {
		var all []spec.Port
		for _, p := range ports {
			all = append(all, port(t, p))
		}
		return s.Publish(n, ep, all, false)
	}
}

func undo(change func(*spec.State, spec.ID, spec.ID), n, ep spec.ID) step {
	return func(_ *testing.T, s *spec.State) error { change(s, n, ep); return nil }
}

func drop(n spec.ID) step {
	return func(_ *testing.T, s *spec.State) error { s.RemoveNetwork(n); return nil }
}

// published asks that an endpoint have these ports.
func published(n, ep spec.ID, ports ...string) step {
	return func(t *testing.T, s *spec.State) error {
		_, e, err := s.Endpoint(n, ep)
		if err != nil {
			return err
		}
		var got []string
		for _, p := range e.Ports {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(ports, got); diff != "" {
			t.Errorf("ports (-want +got):\n%s", diff)
		}
		return nil
	}
}

var (
	leave  = (*spec.State).Leave
	remove = (*spec.State).RemoveEndpoint
	revoke = (*spec.State).Unpublish
)

func TestRules(t *testing.T) {
	host := []step{add(network(web, "10.1.0.0/24", "fd00:1::/64")), attach(web, endpoint(c1, "10.1.0.2/24", "fd00:1::2/64"))}
	for _, story := range []struct {
		promise string
		steps   []step
		class   error  // of the last step
		text    string // in its error
	}{
		{"a network that was never made is not found", []step{published(db, c1)}, spec.ErrNotFound, "network db0000000000"},
		{"an endpoint that was never made is not found", []step{published(web, c2)}, spec.ErrNotFound, "endpoint c20000000000 of network web000000000"},
		{"the same network can be added twice", []step{add(network(web, "10.1.0.0/24", "fd00:1::/64"))}, nil, ""},
		{"the same network can not come back with another MTU", []step{add(&spec.Network{ID: web, InterfacePrefix: "eth", Masquerade: true, MTU: 1400, Pools: network(web, "10.1.0.0/24", "fd00:1::/64").Pools})}, spec.ErrExists, "other settings"},
		{"two networks do not share a subnet", []step{add(network(db, "10.1.0.0/24"))}, spec.ErrInUse, "subnet 10.1.0.0/24"},
		{"a network's subnet may not lie in another's", []step{add(network(db, "fd00:1::/80"))}, spec.ErrInUse, "fd00:1::/64 of network web000000000"},
		{"a network may not overlap itself", []step{add(network(db, "10.2.0.0/24", "10.2.0.0/16"))}, spec.ErrInvalid, "same network"},
		{"a removed network's subnet is free", []step{drop(web), add(network(db, "10.1.0.0/24"))}, nil, ""},
		{"a subnet has no bits behind its length", []step{add(&spec.Network{ID: db, Pools: []spec.Pool{{Prefix: netip.MustParsePrefix("10.2.0.1/24")}}})}, spec.ErrInvalid, "want 10.2.0.0/24"},
		{"a network brings its endpoints along", []step{drop(web), add(withEndpoint(network(web, "10.1.0.0/24"), endpoint(c2, "10.1.0.9/24"))), joins(web, c2, "/ns")}, nil, ""},
		{"a network does not bring a wrong endpoint along", []step{drop(web), add(withEndpoint(network(web, "10.1.0.0/24"), endpoint(c2, "10.9.0.9/24")))}, spec.ErrInvalid, "endpoint c20000000000: address 10.9.0.9/24"},

		{"the same endpoint can be added twice", []step{attach(web, endpoint(c1, "10.1.0.2/24", "fd00:1::2/64"))}, nil, ""},
		{"the same endpoint can be added again after it has joined", []step{joins(web, c1, "/ns"), attach(web, endpoint(c1, "10.1.0.2/24", "fd00:1::2/64"))}, nil, ""},
		{"an endpoint can not come back with another address", []step{attach(web, endpoint(c1, "10.1.0.3/24"))}, spec.ErrExists, "other settings"},
		{"an endpoint needs its network", []step{attach(db, endpoint(c2, "10.1.0.3/24"))}, spec.ErrNotFound, "network db"},
		{"second container cannot take the first one's address", []step{attach(web, endpoint(c2, "10.1.0.2/24"))}, spec.ErrInUse, "endpoint c10000000000"},
		{"second container cannot take the first one's IPv6 address", []step{attach(web, endpoint(c2, "10.1.0.3/24", "fd00:1::2/64"))}, spec.ErrInUse, "fd00:1::2"},
		{"the address of a removed endpoint is free", []step{undo(remove, web, c1), attach(web, endpoint(c2, "10.1.0.2/24", "fd00:1::2/64"))}, nil, ""},
		{"no container takes the gateway's address", []step{attach(web, endpoint(c2, "10.1.0.1/24"))}, spec.ErrInUse, "gateway"},
		{"no container takes the broadcast address", []step{attach(web, endpoint(c2, "10.1.0.255/24"))}, spec.ErrInvalid, "broadcast"},
		{"an address has the length of its subnet", []step{attach(web, endpoint(c2, "10.1.0.3/16"))}, spec.ErrInvalid, "10.1.0.3/16"},
		{"an address lies in a subnet", []step{attach(web, endpoint(c2, "10.1.1.3/24"))}, spec.ErrInvalid, "no subnet"},

		{"an endpoint joins one sandbox, as often as asked", []step{joins(web, c1, "/a"), joins(web, c1, "/a")}, nil, ""},
		{"an endpoint can not be in two sandboxes", []step{joins(web, c1, "/a"), joins(web, c1, "/b")}, spec.ErrInUse, "sandbox /a"},
		{"an endpoint that has left can join another sandbox", []step{joins(web, c1, "/a"), undo(leave, web, c1), undo(leave, web, c1), joins(web, c1, "/b")}, nil, ""},
		{"nobody joins what is not there", []step{joins(web, c2, "/a")}, spec.ErrNotFound, "endpoint c2"},

		{"the same ports can be published twice, in any order", []step{
			publish(web, c1, "*:80->80/tcp", "*:53->53/udp"), publish(web, c1, "*:53->53/udp", "*:80->80/tcp"),
			published(web, c1, "*:80->80/tcp", "*:53->53/udp"),
		}, nil, ""},
		{"other ports take the place of the old ones", []step{publish(web, c1, "*:80->80/tcp"), publish(web, c1, "*:81->80/tcp"), published(web, c1, "*:81->80/tcp")}, nil, ""},
		{"neighbours become one range", []step{publish(web, c1, "*:81->81/tcp", "*:80->80/tcp"), published(web, c1, "*:80-81->80-81/tcp")}, nil, ""},
		{"second container cannot take the first one's port", []step{publish(web, c1, "*:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:80->81/tcp")}, spec.ErrInUse, "*:80->80/tcp is published by endpoint c10000000000"},
		{"a port on one address is taken by the port on all", []step{publish(web, c1, "*:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "127.0.0.1:80->81/tcp")}, spec.ErrInUse, "127.0.0.1:80->81/tcp"},
		{"a port on all addresses is taken by the port on one", []step{publish(web, c1, "[fd00::9]:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24", "fd00:1::3/64")), publish(web, c2, "*:80->81/tcp")}, spec.ErrInUse, "[fd00::9]:80->80/tcp"},
		{"a port on every IPv4 address is taken by the port on one", []step{publish(web, c1, "10.0.0.1:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "0.0.0.0:80->81/tcp")}, spec.ErrInUse, "10.0.0.1:80->80/tcp"},
		{"one port on two addresses is two ports", []step{publish(web, c1, "10.0.0.1:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "10.0.0.2:80->80/tcp")}, nil, ""},
		{"one port in two families is two ports", []step{publish(web, c1, "0.0.0.0:80->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24", "fd00:1::3/64")), publish(web, c2, "[::]:80->80/tcp")}, nil, ""},
		{"one port of two protocols is two ports", []step{publish(web, c1, "*:53->53/udp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:53->53/tcp")}, nil, ""},
		{"a port inside another's range is taken", []step{publish(web, c1, "*:80->80/tcp", "*:81->81/tcp", "*:82->82/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:81->80/tcp")}, spec.ErrInUse, "*:80-82->80-82/tcp"},
		{"a range around another's port is taken", []step{publish(web, c1, "*:81->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:80->80/tcp", "*:81->81/tcp", "*:82->82/tcp")}, spec.ErrInUse, "*:81->80/tcp"},
		{"a container does not clash with itself", []step{publish(web, c1, "*:80->80/tcp", "10.0.0.1:80->81/tcp")}, spec.ErrInvalid, "overlap"},
		{"a refused port leaves the endpoint's own as they were", []step{
			attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:90->90/tcp"), publish(web, c1, "*:80->80/tcp"),
			refusedThenAsBefore(publish(web, c1, "*:81->81/tcp", "*:90->90/tcp")), published(web, c1, "*:80->80/tcp"),
		}, nil, ""},
		{"an IPv6 address of the host is fine for a container without, save for SCTP", []step{attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "[2001:db8::1]:80->80/tcp", "[2001:db8::1]:80->80/sctp", "*:81->81/sctp"), published(web, c2, "[2001:db8::1]:80->80/tcp", "0.0.0.0:81->81/sctp")}, nil, ""},
		{"an IPv4 address of the host is nothing to a container without", []step{attach(web, endpoint(c2, "fd00:1::3/64")), publish(web, c2, "127.0.0.1:80->80/tcp", "*:81->81/tcp"), published(web, c2, "[::]:81->81/tcp")}, nil, ""},
		{"every address of the host is fine for a container of one family", []step{attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:80->80/tcp"), published(web, c2, "*:80->80/tcp")}, nil, ""},
		{"a container whose IPv6 is turned off loses the address, and the ports that led there", []step{
			joins(web, c1, "/a"), publish(web, c1, "*:80->80/tcp", "[fd00::9]:81->81/tcp", "127.0.0.1:82->82/tcp"), forfeit(web, c1), forfeit(web, c1),
			published(web, c1, "0.0.0.0:80->80/tcp", "127.0.0.1:82->82/tcp"), attach(web, endpoint(c2, "10.1.0.3/24", "fd00:1::2/64")), publish(web, c2, "[::]:80->80/tcp"),
		}, nil, ""},
		{"a revoked port is free", []step{publish(web, c1, "*:80->80/tcp"), undo(revoke, web, c1), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:80->80/tcp")}, nil, ""},
		{"who leaves publishes nothing", []step{joins(web, c1, "/a"), publish(web, c1, "*:80->80/tcp"), undo(leave, web, c1), published(web, c1)}, nil, ""},
		{"a removed endpoint's port is free", []step{publish(web, c1, "*:80->80/tcp"), undo(remove, web, c1), attach(web, endpoint(c2, "10.1.0.3/24")), publish(web, c2, "*:80->80/tcp")}, nil, ""},
		{"a removed network's ports are free", []step{publish(web, c1, "*:80->80/tcp"), drop(web), add(network(db, "10.2.0.0/24")), attach(db, endpoint(c2, "10.2.0.3/24")), publish(db, c2, "*:80->80/tcp")}, nil, ""},
		{"nobody publishes what is not there", []step{publish(web, c3, "*:80->80/tcp")}, spec.ErrNotFound, "endpoint c3"},
		{"what is not there can be taken back", []step{drop(db), undo(remove, web, c3), undo(remove, db, c3), undo(leave, db, c1), undo(revoke, web, c3)}, nil, ""},
	} {
		t.Run(story.promise, func(t *testing.T) {
			s := spec.State{}
			for _, do := range slices.Concat(host, story.steps[:len(story.steps)-1]) {
				if err := do(t, &s); err != nil {
					t.Fatalf("on the way: %v", err)
				}
			}
			err := story.steps[len(story.steps)-1](t, &s)
			if !errors.Is(err, story.class) || story.class == nil && err != nil {
				t.Fatalf("want %v, got %v", story.class, err)
			}
			if err != nil && !strings.Contains(err.Error(), story.text) {
				t.Errorf("error lacks %q: %v", story.text, err)
			}
			if err == nil {
				checkState(t, &s)
				checkFree(t, &s)
			}
		})
	}
}

func withEndpoint(n *spec.Network, ep *spec.Endpoint) *spec.Network {
	n.Endpoints = n.Endpoints.With(ep.ID, ep)
	return n
}

// refusedThenAsBefore does what an owner of the State does: it throws the copy away.
func refusedThenAsBefore(do step) step {
	return func(t *testing.T, s *spec.State) error {
		copied := *s
		if err := do(t, &copied); err == nil {
			t.Error("not refused")
		}
		return nil
	}
}

func TestHeldErrorNamesTheHolder(t *testing.T) {
	s := spec.State{}
	for _, do := range []step{add(network(web, "10.1.0.0/24")), attach(web, endpoint(c1, "10.1.0.2/24"))} {
		if err := do(t, &s); err != nil {
			t.Fatal(err)
		}
	}
	held := (*spec.HeldError)(nil)
	if err := s.AddEndpoint(web, endpoint(c2, "10.1.0.2/24")); !errors.As(err, &held) {
		t.Fatalf("want a HeldError, got %v", err)
	}
	if held.Network != web || held.Holder != c1 || held.What != "address 10.1.0.2" {
		t.Errorf("got %+v", held)
	}
	for _, do := range []step{publish(web, c1, "*:85->80/tcp"), attach(web, endpoint(c2, "10.1.0.3/24"))} {
		if err := do(t, &s); err != nil {
			t.Fatal(err)
		}
	}
	if err := publish(web, c2, "*:85->80/tcp")(t, &s); !errors.As(err, &held) || held.Network != web || held.Holder != c1 {
		t.Errorf("a port: want a HeldError that names c1, got %v", err)
	}
}

func TestKeysAreOneToAThing(t *testing.T) {
	s := spec.State{}
	same := strings.Repeat("a", 12)
	first, second := spec.ID(same+strings.Repeat("b", 52)), spec.ID(same+strings.Repeat("c", 52))
	if err := errors.Join(s.AddNetwork(network(first, "10.1.0.0/24")), s.AddNetwork(network(second, "10.2.0.0/24"))); err != nil {
		t.Fatal(err)
	}
	a, _ := s.Network(first)
	b, _ := s.Network(second)
	if a.Key != spec.ID(same) || b.Key != spec.ID(strings.Repeat("c", 12)) {
		t.Errorf("keys %s and %s", a.Key, b.Key)
	}
	short := spec.ID(same + "bbbbbbbbbbbbb") // a swarm's ID: both of its names are taken below
	if err := s.AddNetwork(network(spec.ID(strings.Repeat("b", 12)+strings.Repeat("d", 52)), "10.3.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if err := s.AddNetwork(network(short, "10.4.0.0/24")); !errors.Is(err, spec.ErrInUse) {
		t.Errorf("want no name left, got %v", err)
	}
	s.RemoveNetwork(first)
	if err := s.AddNetwork(network(short, "10.4.0.0/24")); err != nil {
		t.Errorf("the name of a removed network is not free: %v", err)
	}
	checkState(t, &s)
}

func TestSnapshotStaysWhatItWas(t *testing.T) {
	s := spec.State{}
	for _, do := range []step{
		add(network(web, "10.1.0.0/24")), attach(web, endpoint(c1, "10.1.0.2/24")), publish(web, c1, "*:80->80/tcp"),
	} {
		if err := do(t, &s); err != nil {
			t.Fatal(err)
		}
	}
	before := s
	s.Leave(web, c1)
	s.RemoveNetwork(web)
	checkState(t, &before)
	if err := published(web, c1, "*:80->80/tcp")(t, &before); err != nil {
		t.Errorf("the snapshot lost it: %v", err)
	}
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
}

// checkState recounts what a State must keep whatever happens to it: no two ports
// overlap, no two things share a name of the kernel, no two endpoints an address.
func checkState(t tester, s *spec.State) {
	t.Helper()
	keys := map[spec.ID]spec.ID{}
	addrs := map[netip.Addr]spec.ID{}
	type held struct {
		port spec.Port
		by   spec.ID
	}
	var ports []held
	name := func(key, id spec.ID) {
		if other, taken := keys[key]; taken || len(key) != 12 {
			t.Errorf("key %q of %s: also %s", key, id.Short(), other.Short())
		}
		keys[key] = id
	}
	for nid, n := range s.Networks.All() {
		name(n.Key, nid)
		for eid, ep := range n.Endpoints.All() {
			name(ep.Key, eid)
			for _, a := range ep.Addresses() {
				if other, taken := addrs[a.Addr()]; taken {
					t.Errorf("address %s of %s: also %s", a, eid.Short(), other.Short())
				}
				addrs[a.Addr()] = eid
				if holder, ok := n.Holder(a.Addr()); !ok || holder != eid {
					t.Errorf("address %s of %s: the index says %q", a, eid.Short(), holder)
				}
			}
			for _, p := range ep.Ports {
				for _, q := range ports {
					if overlap(p, q.port) {
						t.Errorf("port %s of %s: also %s of %s", p, eid.Short(), q.port, q.by.Short())
					}
				}
				ports = append(ports, held{p, eid})
			}
		}
	}
	if k, p, a := s.Indexed(); k != len(keys) || p != len(ports) || a != len(addrs) {
		t.Errorf("indexed are %d keys, %d ports and %d addresses; there are %d, %d and %d", k, p, a, len(keys), len(ports), len(addrs))
	}
}

// checkFree tries what can be had of a State: all that is not taken, and nothing
// else.
func checkFree(t tester, s *spec.State) {
	t.Helper()
	var ports []spec.Port
	for _, n := range s.Networks.All() {
		for _, ep := range n.Endpoints.All() {
			ports = append(ports, ep.Ports...)
		}
	}
	trial := *s
	if err := trial.AddNetwork(network(id("zztrial"), "192.168.77.0/24", "fd77::/64")); err != nil {
		t.Errorf("trial network: %v", err)
		return
	}
	if err := trial.AddEndpoint(id("zztrial"), endpoint(id("zzep"), "192.168.77.9/24", "fd77::9/64")); err != nil {
		t.Errorf("trial endpoint: %v", err)
		return
	}
	for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
		for number := uint16(78); number < 92; number++ {
			for _, host := range []string{"", "0.0.0.0", "::", "10.0.0.1", "fd00::9"} {
				want := spec.Port{Proto: proto, HostPort: number, ContainerPort: 7, Count: 1}
				if host != "" {
					want.Host = netip.MustParseAddr(host)
				}
				clash := slices.ContainsFunc(ports, func(p spec.Port) bool { return overlap(want, p) })
				again := trial
				if err := again.Publish(id("zztrial"), id("zzep"), []spec.Port{want}, false); (err != nil) != clash {
					t.Errorf("port %s: taken %t, but %v", want, clash, err)
				}
			}
		}
	}
}

// overlap is the naive judgement: is there an address and a number for both?
func overlap(a, b spec.Port) bool {
	if a.Proto != b.Proto {
		return false
	}
	numbers := func(p spec.Port) (all []int) {
		for i := range int(p.Count) {
			all = append(all, int(p.HostPort)+i)
		}
		return all
	}
	if !slices.ContainsFunc(numbers(a), func(n int) bool { return slices.Contains(numbers(b), n) }) {
		return false
	}
	for _, addr := range []string{"10.0.0.1", "10.0.0.2", "127.0.0.1", "10.99.9.9", "::1", "fd00::9", "2001:db8::1", "fd99::9"} {
		if covers(a.Host, netip.MustParseAddr(addr)) && covers(b.Host, netip.MustParseAddr(addr)) {
			return true
		}
	}
	return false
}

func covers(host, addr netip.Addr) bool {
	return !host.IsValid() || host == addr || host.IsUnspecified() && host.Is4() == addr.Is4()
}
