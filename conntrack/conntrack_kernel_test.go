package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// eachWay runs a test with every way of deletion that this kernel can be trusted with.
func eachWay(t *testing.T, test func(t *testing.T, ways map[uint8]way)) {
	t.Helper()
	trusted := newTable(t, lab.NewHost(t))
	best4, best6 := trusted.wayOf(unix.AF_INET), trusted.wayOf(unix.AF_INET6)
	t.Logf("this kernel's filters: IPv4 %s, IPv6 %s", best4, best6)
	for _, w := range []way{walk, list, filter} {
		t.Run(w.String(), func(t *testing.T) {
			if w > best4 {
				t.Skipf("the kernel lacks a trustworthy %s", w)
			}
			test(t, map[uint8]way{unix.AF_INET: w, unix.AF_INET6: min(w, best6)})
		})
	}
}

func TestKernelEntriesGoWhenAnEndpointLeavesAndAgainWhenItIsDeleted(t *testing.T) {
	eachWay(t, func(t *testing.T, ways map[uint8]way) {
		m := newMachine(t, lab.NewHost(t))
		m.ways, m.small = ways, 0
		m.joined("b", 2)
		m.joined("c", 3)
		m.apply()
		m.usual(2)
		m.usual(3)
		m.flow("192.0.2.1:1000", "192.0.2.2:53", "192.0.2.2:53")
		m.flowInZone("172.30.1.2:1000", "192.0.2.2:53", "192.0.2.2:53", 7)
		m.equal("gone while nothing happens", nil, m.changes(m.apply))

		m.state.Leave(id("a"), id("b"))
		m.equal("gone at Leave", ofEndpoint(2), m.changes(m.apply))
		// Its processes may still run, so there may be new ones.
		m.usual(2)
		m.state.RemoveEndpoint(id("a"), id("b"))
		m.equal("gone at DeleteEndpoint", ofEndpoint(2), m.changes(m.apply))
		m.equal("gone afterwards", nil, m.changes(m.apply))
	})
}

func TestKernelEntriesGoAlsoAfterAnotherLayersFailure(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.joined("b", 2)
	m.apply()
	m.usual(2)
	m.state.Leave(id("a"), id("b"))
	m.have = nil // so the engine says: look for yourself
	m.equal("gone at Leave", ofEndpoint(2), m.changes(m.apply))
}

func TestKernelAnAddressThatPassesOnIsCleanedOnceBeforeTheNewEndpointBegins(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.joined("b", 2)
	m.apply()
	m.usual(2)
	m.state.RemoveEndpoint(id("a"), id("b"))
	m.endpoint("c", 2)
	m.equal("gone when it passes", ofEndpoint(2), m.changes(m.apply))
	m.usual(2)
	m.must(m.state.Join(id("a"), id("c"), "/run/docker/netns/c"))
	m.equal("gone when the new one joins", nil, m.changes(m.apply))
	m.have = nil
	m.equal("gone afterwards", nil, m.changes(m.apply))
}

func TestKernelWhatCouldNotBeDeletedIsDeletedNextTimeUnlessItIsSomebodyElses(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.joined("b", 2)
	m.joined("c", 3)
	m.apply()
	m.usual(2)
	m.usual(3)
	whole := m.sockets
	broken := newTable(t, m.Host)
	broken.Close()
	m.sockets = broken.sockets
	m.state.RemoveEndpoint(id("a"), id("b"))
	m.state.RemoveEndpoint(id("a"), id("c"))
	want := plan.New(m.state, &plan.Host{IPv6: true})
	err := m.Apply(context.Background(), m.have, want)
	object := (*plan.ObjectError)(nil)
	if !errors.As(err, &object) || object.Owner != (plan.Owner{}) || !strings.Contains(object.Object, "172.30.1.2") {
		t.Errorf("want an error on an object that no change can be blamed for, got %v", err)
	}
	m.sockets = whole
	m.joined("d", 3)
	m.equal("gone next time", ofEndpoint(2), m.changes(m.apply))
}

func TestKernelManyThatLeaveAtOnceGoInOneWalk(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	for i := range 2 * many {
		m.joined(string(rune('b'+i)), i+2)
	}
	m.apply()
	for i := range 2 * many {
		m.usual(i + 2)
	}
	m.flow("192.0.2.1:1000", "192.0.2.2:53", "192.0.2.2:53")
	m.state.RemoveNetwork(id("a"))
	if gone := m.changes(m.apply); len(gone) != 2*many*len(ofEndpoint(2)) {
		t.Errorf("%d entries went: %v", len(gone), gone)
	}
}

// TestKernelTheFirstLookDeletesWhatNobodyCanHave is about what left while no daemon ran.
func TestKernelTheFirstLookDeletesWhatNobodyCanHave(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.joined("b", 2)
	m.endpoint("c", 3)
	m.usual(2)
	m.usual(3)                                                  // left, when the daemon was killed
	m.flow("192.0.2.2:1000", "192.0.2.1:8007", "172.30.1.7:80") // forgotten
	m.flow("172.30.1.8:1000", "192.0.2.2:53", "192.0.2.2:53")   // of an address that a container gave itself
	m.flow("192.0.2.2:1000", "172.30.1.8:53", "172.30.1.8:53")
	m.flow("172.30.1.1:1000", "172.30.1.9:53", "192.0.2.2:1") // of the bridge
	m.flow("192.0.2.1:1000", "192.0.2.2:53", "192.0.2.2:53")
	m.flowInZone("172.30.1.9:1000", "192.0.2.2:53", "192.0.2.2:53", 7)
	m.equal("gone at the first look", slices.Sorted(slices.Values(append(ofEndpoint(3), "[192.0.2.2 172.30.1.7]"))), m.changes(m.apply))
	m.usual(3)
	m.have = nil
	m.equal("gone at later looks", nil, m.changes(m.apply))
}

func TestKernelRemoveDeletesTheEntriesOfAllSubnets(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.joined("b", 2)
	m.apply()
	m.usual(2)
	m.flow("192.0.2.1:1000", "192.0.2.2:53", "192.0.2.2:53")
	m.equal("gone", ofEndpoint(2), m.changes(func() { m.must(Clear{m.Table}.Remove(context.Background())) }))
}

// TestKernelFiltersAreTriedWithoutATrace is also about a filter that finds everybody
// but the address: it must not be trusted.
func TestKernelFiltersAreTriedWithoutATrace(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.usual(2)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		before := fmt.Sprint(m.sources())
		best := m.wayOf(family)
		if after := fmt.Sprint(m.sources()); before != after {
			t.Errorf("a trial of family %d changed entries from %s to %s", family, before, after)
		}
		addr := netip.MustParseAddr("172.30.1.2")
		if family == unix.AF_INET6 {
			addr = netip.MustParseAddr("fd00:30:1::2")
		}
		m.must(m.dump(family, bySource(reply, addr), func(e entry) {
			if best > walk && e.server.Addr() != addr {
				t.Errorf("a filter that is trusted finds %v for %s", e.server, addr)
			}
		}))
	}
}

func TestKernelThatRefusesIsNotedAndNothingFails(t *testing.T) {
	h := lab.NewHost(t)
	var unable, absent *Table
	var err error
	h.Do(func() {
		runtime.LockOSThread() // the thread and what it may no longer do end with Do
		none := [2]unix.CapUserData{}
		if err = unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err == nil {
			unable = New()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	h.DoWithoutNetfilter(func() { absent = New() })
	for why, table := range map[string]*Table{"operation not permitted": unable, "protocol not supported": absent} {
		if notices := table.Notices(); len(notices) != 1 || !strings.Contains(notices[0], why) {
			t.Errorf("notices: %q", notices)
		}
		m := newMachine(t, h)
		m.Table = table
		m.joined("b", 2)
		m.apply()
		m.state.RemoveEndpoint(id("a"), id("b"))
		m.apply()
		table.Close()
	}
}
