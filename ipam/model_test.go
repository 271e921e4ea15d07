package ipam_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
)

// TestAnySequenceMatchesTheNaiveModel holds the Allocator against a model that
// writes every address down and looks at all of them for every answer, over
// random requests with restarts, boots, crashes and failing writes in between.
func TestAnySequenceMatchesTheNaiveModel(t *testing.T) {
	rapid.Check(t, anySequence)
}

func FuzzAnySequenceMatchesTheNaiveModel(f *testing.F) {
	for seed := range byte(64) {
		long := make([]byte, 8<<10)
		if _, err := rand.NewChaCha8([32]byte{seed}).Read(long); err != nil {
			f.Fatal(err)
		}
		f.Add(long)
	}
	f.Fuzz(rapid.MakeFuzz(anySequence))
}

func anySequence(t *rapid.T) {
	m := &machine{clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), model: map[string]*modelPool{}}
	m.restart(t)
	t.Repeat(map[string]func(*rapid.T){
		"name a pool":       m.namePool,
		"choose a pool":     m.choosePool,
		"release a pool":    m.with(m.releasePool),
		"use":               m.with(m.use),
		"choose an address": m.with(m.chooseAddress),
		"choose another":    m.with(m.chooseAddress),
		"name an address":   m.with(m.nameAddress),
		"release":           m.with(m.releaseAddress),
		"collect":           m.collect,
		"wait": func(t *rapid.T) {
			m.clock = m.clock.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "s")) * time.Second)
		},
		"restart":       m.restart,
		"reboot":        m.reboot,
		"crash":         m.crash,
		"break or mend": m.breakOrMend,
		"":              m.check,
	})
}

// machine drives an Allocator and the model side by side.
type machine struct {
	store  ipamtest.Memory
	alloc  *ipam.Allocator
	broken bool
	clock  time.Time
	model  map[string]*modelPool // by ID
}

type modelPool struct {
	ipam.Pool
	since   time.Time
	roles   map[netip.Addr]ipam.Role
	owners  map[netip.Addr]string // leases
	resting []netip.Addr          // the longest released first
}

// The prefixes are few and near each other, so that they meet often.
func prefixes() *rapid.Generator[netip.Prefix] {
	return anyOf("10.0.0.0/29", "10.0.0.0/28", "10.0.0.8/29", "10.0.0.16/30", "10.0.0.20/31", "10.0.0.22/32",
		"10.0.0.32/27", "fd00::/126", "fd00::/125", "fd00::8/127")
}

func anyOf(list ...string) *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		p, _ := netip.ParsePrefix(rapid.SampledFrom(list).Draw(t, "prefix")) // "" is the zero Prefix
		return p
	})
}

func (m *machine) restart(t *rapid.T) {
	if m.broken {
		return
	}
	alloc, err := ipam.New(ipam.Config{
		Store:  &m.store,
		Host:   func() ([]ipam.Obstacle, error) { return obstacles(), nil },
		Now:    func() time.Time { return m.clock },
		Ranges: ranges(),
	})
	if err != nil {
		t.Fatalf("restart: %v", err)
	}
	m.alloc = alloc
	for _, p := range m.model {
		p.since = time.Time{}
	}
}

// ranges are two, of which the second can only be used by overlapping a route.
func ranges() []ipam.Range {
	return []ipam.Range{
		{Prefix: netip.MustParsePrefix("192.168.0.0/26"), Size: 29},
		{Prefix: netip.MustParsePrefix("192.168.4.0/28"), Size: 30},
	}
}

func obstacles() []ipam.Obstacle {
	return []ipam.Obstacle{
		{Prefix: netip.MustParsePrefix("192.168.0.9/32"), What: "address of eth0"},
		{Prefix: netip.MustParsePrefix("192.168.4.0/24"), What: "route via tun0", Weak: true},
	}
}

func (m *machine) reboot(t *rapid.T) {
	if m.broken {
		return
	}
	m.store.Reboot()
	for _, p := range m.model {
		clear(p.owners)
		p.resting = nil
	}
	m.restart(t)
}

func (m *machine) breakOrMend(*rapid.T) {
	m.broken = !m.broken
	m.store.Fail(nil)
	if m.broken {
		m.store.Fail(errDisk)
	}
}

var errDisk = errors.New("disk on fire")

// agree compares what happened with what should have, and reports whether it
// was a success. If want is nil, a broken store is the one excuse to fail.
func (m *machine) agree(t *rapid.T, what string, got, want error) bool {
	t.Helper()
	if want == nil && m.broken {
		want = errDisk
	}
	if !errors.Is(got, want) || (want == nil && got != nil) {
		t.Fatalf("%s: error (-want +got):\n- %v\n+ %v", what, want, got)
	}
	return got == nil
}

func (m *machine) yields(p *modelPool) bool {
	return !p.Used && m.clock.Sub(p.since) > time.Minute
}

func (m *machine) namePool(t *rapid.T) {
	r := ipam.PoolRequest{Prefix: prefixes().Draw(t, "pool")}
	if rapid.Bool().Draw(t, "with range") && r.Prefix.Bits() < 30 {
		half := netip.PrefixFrom(r.Prefix.Addr(), r.Prefix.Bits()+1)
		if rapid.Bool().Draw(t, "upper") {
			half = netip.PrefixFrom(r.Prefix.Addr().Next().Next().Next().Next(), r.Prefix.Bits()+1).Masked()
		}
		r.Range = half
	}
	var want error
	for _, p := range m.model {
		if p.Prefix.Overlaps(r.Prefix) && (p.Prefix != r.Prefix || !m.yields(p)) {
			want = ipam.ErrOverlap
		}
	}
	got, err := m.alloc.RequestPool(r)
	if m.agree(t, "name pool", err, want) {
		m.born(t, got, ipam.Pool{ID: got.ID, Prefix: r.Prefix, Range: r.Range})
	}
}

func (m *machine) choosePool(t *rapid.T) {
	size := anyOf("0.0.0.0/28", "0.0.0.0/29", "0.0.0.0/30", "").Draw(t, "size")
	want, wantErr := m.freePrefix(size.Bits())
	got, err := m.alloc.RequestPool(ipam.PoolRequest{Prefix: size})
	if m.agree(t, "choose pool", err, wantErr) {
		m.born(t, got, ipam.Pool{ID: got.ID, Prefix: want, Chosen: !size.IsValid()})
	}
}

// freePrefix tries every prefix of the size, or for want of one of each range's
// own size, three times over.
func (m *machine) freePrefix(bits int) (netip.Prefix, error) {
	type class struct{ yielding, weak bool }
	for _, allowed := range []class{{false, false}, {true, false}, {true, true}} {
		for _, r := range ranges() {
			if bits >= 0 {
				r.Size = bits
			}
			for at := r.Prefix.Addr(); r.Prefix.Contains(at); at = at.Next() {
				p := netip.PrefixFrom(at, r.Size)
				if p == p.Masked() && !m.blocked(p, allowed.yielding, allowed.weak) {
					return p, nil
				}
			}
		}
	}
	return netip.Prefix{}, ipam.ErrNoAddress
}

func (m *machine) blocked(p netip.Prefix, yielding, weak bool) bool {
	for _, o := range obstacles() {
		if o.Prefix.Overlaps(p) && (!weak || !o.Weak) {
			return true
		}
	}
	for _, other := range m.model {
		if other.Prefix.Overlaps(p) && (!yielding || !m.yields(other)) {
			return true
		}
	}
	return false
}

func (m *machine) born(t *rapid.T, got, want ipam.Pool) {
	if got != want {
		t.Fatalf("pool (-want +got):\n- %+v\n+ %+v", want, got)
	}
	if m.model[got.ID] != nil {
		t.Fatalf("pool ID %s is given twice", got.ID)
	}
	maps.DeleteFunc(m.model, func(_ string, p *modelPool) bool { return p.Prefix.Overlaps(got.Prefix) })
	m.model[got.ID] = &modelPool{
		Pool: got, since: m.clock, roles: map[netip.Addr]ipam.Role{}, owners: map[netip.Addr]string{},
	}
}

// with runs an action on one of the pools. It never skips: what a fuzzer sends
// must not run out of actions.
func (m *machine) with(action func(*rapid.T, *modelPool)) func(*rapid.T) {
	return func(t *rapid.T) {
		if len(m.model) == 0 {
			return
		}
		all := slices.SortedFunc(maps.Values(m.model), func(a, b *modelPool) int {
			return a.Prefix.Addr().Compare(b.Prefix.Addr())
		})
		action(t, all[rapid.IntRange(0, len(all)-1).Draw(t, "which pool")])
	}
}

func (m *machine) releasePool(t *rapid.T, p *modelPool) {
	if m.agree(t, "release pool", m.alloc.ReleasePool(p.ID), nil) {
		delete(m.model, p.ID)
		if err := m.alloc.ReleasePool(p.ID); err != nil {
			t.Fatalf("release a second time: %v", err)
		}
	}
}

func (m *machine) use(t *rapid.T, p *modelPool) {
	aux := m.someAddr(t, p)
	owner, leased := p.owners[aux]
	var want error
	switch {
	case leased && (owner != "" || p.roles[aux] != ipam.Named):
		want = ipam.ErrOverlap
	case p.roles[aux] == "" || p.roles[aux] == ipam.Named:
	case p.Network != "":
		// Nothing changes: not even a broken store is noticed.
		if err := m.alloc.Use("n"+p.ID, ipam.Claim{Prefix: p.Prefix, Auxiliary: []netip.Addr{aux}}); err != nil {
			t.Fatalf("use a second time: %v", err)
		}
		return
	}
	if m.agree(t, "use", m.alloc.Use("n"+p.ID, ipam.Claim{Prefix: p.Prefix, Auxiliary: []netip.Addr{aux}}), want) {
		p.Used, p.Network = true, "n"+p.ID
		if p.roles[aux] != ipam.Gateway {
			p.roles[aux] = ipam.Auxiliary
			delete(p.owners, aux)
			p.wake(aux)
		}
	}
}

// someAddr returns one of the addresses of a pool, special ones included, half
// of the time one that is held.
func (m *machine) someAddr(t *rapid.T, p *modelPool) netip.Addr {
	all := p.all()
	held := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool {
		_, leased := p.owners[a]
		return !leased && p.roles[a] == ""
	})
	if len(held) > 0 && rapid.Bool().Draw(t, "held") {
		all = held
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "which address")]
}

func (m *machine) request(t *rapid.T, p *modelPool) ipam.AddressRequest {
	return ipam.AddressRequest{
		Pool:    p.ID,
		Gateway: rapid.IntRange(0, 9).Draw(t, "gateway") == 0,
		Owner:   rapid.SampledFrom([]string{"", "web", "db"}).Draw(t, "owner"),
	}
}

func (m *machine) chooseAddress(t *rapid.T, p *modelPool) {
	r := m.request(t, p)
	free := p.choosable()
	var want error
	if len(free) == 0 {
		want = ipam.ErrNoAddress
	}
	got, err := m.alloc.RequestAddress(r)
	if !m.agree(t, "choose address", err, want) {
		return
	}
	if !slices.Contains(free, got.Addr()) || got.Bits() != p.Prefix.Bits() {
		t.Fatalf("chose %s, free in %s are %v", got, p.Prefix, free)
	}
	if slices.Contains(p.resting, got.Addr()) && (len(free) > len(p.resting) || p.resting[0] != got.Addr()) {
		t.Fatalf("chose %s of %v, although these rest: %v", got, free, p.resting)
	}
	p.hold(r, got.Addr())
}

func (m *machine) nameAddress(t *rapid.T, p *modelPool) {
	addr := m.someAddr(t, p)
	r := m.request(t, p)
	r.Addr = addr
	_, leased := p.owners[addr]
	got, err := m.alloc.RequestAddress(r)
	switch {
	case p.special(addr):
		if err == nil {
			t.Fatalf("gave the special address %s of %s", addr, p.Prefix)
		}
		return
	case leased, p.roles[addr] == ipam.Gateway, p.roles[addr] == ipam.Auxiliary:
		m.agree(t, "name address", err, ipam.ErrOverlap)
		return
	}
	if m.agree(t, "name address", err, nil) {
		if want := netip.PrefixFrom(addr, p.Prefix.Bits()); got != want {
			t.Fatalf("named %s, got %s", want, got)
		}
		p.hold(r, addr)
	}
}

func (m *machine) releaseAddress(t *rapid.T, p *modelPool) {
	addr := m.someAddr(t, p)
	_, leased := p.owners[addr]
	_, reserved := p.roles[addr]
	err := m.alloc.ReleaseAddress(p.ID, addr)
	if !leased && !reserved {
		if err != nil {
			t.Fatalf("release what nobody holds: %v", err)
		}
		return
	}
	if m.agree(t, "release address", err, nil) {
		delete(p.roles, addr)
		delete(p.owners, addr)
		p.rest(addr)
	}
}

// collect lets everything live. What is collected and when, the stories tell.
func (m *machine) collect(t *rapid.T) {
	got, err := m.alloc.Collect(everything{})
	if err != nil || got.Pools != nil || got.Leases != nil {
		t.Fatalf("collected %+v, %v", got, err)
	}
}

type everything struct{}

func (everything) Network(string) bool             { return true }
func (everything) Address(string, netip.Addr) bool { return true }

// check compares everything after every step.
func (m *machine) check(t *rapid.T) {
	got, want := map[string]string{}, map[string]string{}
	pools := m.alloc.Pools()
	for i, p := range pools {
		got[p.ID] = fmt.Sprintf("%+v", p)
		if i > 0 && !pools[i-1].Prefix.Addr().Less(p.Prefix.Addr()) {
			t.Fatalf("%s comes after %s", p.Prefix, pools[i-1].Prefix)
		}
		for _, other := range pools[:i] {
			if other.Prefix.Overlaps(p.Prefix) {
				t.Fatalf("pools %s and %s overlap", other.ID, p.ID)
			}
		}
	}
	for id, p := range m.model {
		want[id] = fmt.Sprintf("%+v", p.status())
	}
	if !maps.Equal(got, want) {
		t.Fatalf("pools (-want +got):\n- %v\n+ %v", want, got)
	}
}

func (p *modelPool) status() ipam.PoolStatus {
	s := ipam.PoolStatus{Pool: p.Pool}
	for _, a := range p.all() {
		key := ipam.Key{Pool: p.ID, Addr: a}
		if role, ok := p.roles[a]; ok {
			s.Reservations = append(s.Reservations, ipam.Reservation{Key: key, Role: role})
		}
		if owner, ok := p.owners[a]; ok {
			s.Leases = append(s.Leases, ipam.Lease{Key: key, Owner: owner})
		}
	}
	return s
}

func (p *modelPool) all() []netip.Addr {
	var all []netip.Addr
	for a := p.Prefix.Addr(); p.Prefix.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	return all
}

func (p *modelPool) special(a netip.Addr) bool {
	all := p.all()
	return len(all) > 2 && (a == all[0] || a.Is4() && a == all[len(all)-1])
}

// choosable returns all addresses that may be chosen now.
func (p *modelPool) choosable() []netip.Addr {
	var free []netip.Addr
	for _, a := range p.all() {
		_, leased := p.owners[a]
		_, reserved := p.roles[a]
		outside := p.Range.IsValid() && !p.Range.Contains(a)
		if !leased && !reserved && !outside && !p.special(a) {
			free = append(free, a)
		}
	}
	return free
}

func (p *modelPool) hold(r ipam.AddressRequest, addr netip.Addr) {
	p.Used = true
	p.wake(addr)
	if r.Gateway {
		p.roles[addr] = ipam.Gateway
		return
	}
	p.owners[addr] = r.Owner
	if r.Addr.IsValid() && r.Owner == "" {
		p.roles[addr] = ipam.Named
	}
}

func (p *modelPool) wake(addr netip.Addr) {
	p.resting = slices.DeleteFunc(p.resting, func(a netip.Addr) bool { return a == addr })
}

func (p *modelPool) rest(addr netip.Addr) {
	if slices.Contains(p.choosable(), addr) {
		p.resting = append(p.resting, addr)
	}
}
