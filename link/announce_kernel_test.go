package link_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// container is an endpoint of network aa with addresses of both families.
func container(name, suffix string) func(*spec.State) {
	return func(s *spec.State) {
		must := func(err error) {
			if err != nil {
				panic(err)
			}
		}
		must(s.AddEndpoint(id("aa"), &spec.Endpoint{
			ID: id(name), MAC: spec.DeriveMAC(name),
			IPv4: netip.MustParsePrefix("10.1.0." + suffix + "/24"), IPv6: netip.MustParsePrefix("fd00:1::" + suffix + "/64"),
		}))
	}
}

// start does what an engine does: it takes the peer into a sandbox and gives it its
// addresses.
func (m *machine) start(name, suffix string) *lab.Host {
	m.t.Helper()
	sandbox, peer := lab.NewHost(m.t), ("dbp" + name + "0000000000")[:15]
	sandbox.Do(func() { m.Run("ip", "link", "set", peer, "netns", namespacePath()) })
	sandbox.Run("sh", "-ec", strings.NewReplacer("PEER", peer, "SUFFIX", suffix).Replace(`
		ip link set PEER name eth0; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up
		ip addr add 10.1.0.SUFFIX/24 dev eth0; ip addr add fd00:1::SUFFIX/64 dev eth0 nodad`))
	sandbox.Serve("tcp", ":80")
	return sandbox
}

// An engine that announces nothing leaves it to us that neighbours hear of a new
// container at an old address.
func TestKernelNeighboursHearWhoHasAnAddressNow(t *testing.T) {
	m := newMachine(t)
	host := m.look()
	net := network("aa", "10.1.0.0/24", "fd00:1::/64")
	before, gone := planFor(host, net, container("a1", "2"), container("a2", "3")), planFor(host, net, container("a2", "3"))
	after := planFor(host, net, container("a2", "3"), container("a3", "2"))
	m.mustApply(nil, before)
	old, other := m.start("a1", "2"), m.start("a2", "3")
	for _, h := range []*lab.Host{m.Host, other} {
		for _, address := range []string{"10.1.0.2", "fd00:1::2"} {
			h.MustReach("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 80).String(), "host")
			if got := h.Run("ip", "neigh", "show", address); !strings.Contains(got, spec.DeriveMAC("a1").String()) {
				t.Fatalf("%s is at %s", address, got)
			}
		}
	}
	old.Run("ip", "link", "del", "eth0")
	m.mustApply(before, gone)
	m.mustApply(gone, after)
	for _, address := range []string{"10.1.0.2", "fd00:1::2"} {
		lab.Until(t, "the other container knows the new MAC", func() error {
			if got := other.Run("ip", "neigh", "show", address); !strings.Contains(got, spec.DeriveMAC("a3").String()) {
				return errors.New(got)
			}
			return nil
		})
		if got := m.Run("ip", "neigh", "show", address); strings.Contains(got, "lladdr") {
			t.Errorf("the host has %s still: %s", address, got)
		}
	}
	// Nobody is taken to be behind a port where he is not.
	if got := m.Run("bridge", "fdb", "show", "br", "dbraa0000000000"); strings.Contains(got, spec.DeriveMAC("a3").String()) {
		t.Errorf("the bridge has learnt the container's MAC from us:\n%s", got)
	}
	m.start("a3", "2")
	for _, h := range []*lab.Host{m.Host, other} {
		for _, address := range []string{"10.1.0.2", "fd00:1::2"} {
			h.MustReach("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 80).String(), "host")
		}
	}
}

func TestKernelWithoutRawSocketsOnlyTheAnnouncementIsMissing(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.Do(func() { // on a thread that dies
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		must(t, unix.Capget(&header, &caps[0]))
		caps[0].Effective &^= 1 << unix.CAP_NET_RAW
		must(t, unix.Capset(&header, &caps[0]))
		kernel, err := link.New(m.memory, "/proc/sys")
		must(t, err)
		defer kernel.Close()
		must(t, kernel.Apply(t.Context(), nil, want))
	})
	m.mustBeAsPlanned(want)
}

// BenchmarkKernelOneEndpoint is what making and removing a pair costs, with and without
// the announcement of its addresses of both families.
func BenchmarkKernelOneEndpoint(b *testing.B) {
	h := lab.NewHost(b)
	host := &plan.Host{IPv6: true}
	net := network("aa", "10.1.0.0/24", "fd00:1::/64")
	without, with := planFor(host, net), planFor(host, net, container("a1", "2"))
	silent := planFor(host, net, endpointWithoutAddress("a1"))
	for name, want := range map[string]*plan.Plan{"announced": with, "unannounced": silent} {
		b.Run(name, func(b *testing.B) {
			h.Do(func() {
				kernel, err := link.New(memory{}, "/proc/sys")
				must(b, err)
				defer kernel.Close()
				must(b, kernel.Apply(b.Context(), nil, without))
				for b.Loop() {
					must(b, errors.Join(kernel.Apply(b.Context(), without, want), kernel.Apply(b.Context(), want, without)))
				}
			})
		})
	}
	b.Run("announcement alone", func(b *testing.B) {
		h.Do(func() {
			kernel, err := link.New(memory{}, "/proc/sys")
			must(b, err)
			defer kernel.Close()
			plans := make([]*plan.Plan, 0, 2)
			for _, suffix := range []string{"2", "3"} {
				plans = append(plans, planFor(host, net, container("a1", suffix)))
			}
			must(b, kernel.Apply(b.Context(), nil, plans[0]))
			for n := 0; b.Loop(); n++ {
				must(b, kernel.Apply(b.Context(), plans[n%2], plans[(n+1)%2]))
			}
		})
	})
}

func endpointWithoutAddress(name string) func(*spec.State) {
	return func(s *spec.State) {
		if err := s.AddEndpoint(id("aa"), &spec.Endpoint{ID: id(name), MAC: spec.DeriveMAC(name)}); err != nil {
			panic(fmt.Sprint("endpoint without an address: ", err))
		}
	}
}
