package publish_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// zoned is a plan of networks that have nothing but a zone.
func zoned(zones map[spec.ID]plan.Zone) *plan.Plan {
	var networks tree.Map[spec.ID, *plan.Network]
	for id, z := range zones {
		networks = networks.With(id, &plan.Network{ID: id, Zone: &z})
	}
	return &plan.Plan{Networks: networks}
}

func internalZone(bridge string, prefixes ...string) plan.Zone {
	z := plan.Zone{Bridge: bridge, Internal: true}
	for _, p := range prefixes {
		z.Subnets = append(z.Subnets, plan.Subnet{Prefix: netip.MustParsePrefix(p)})
	}
	return z
}

// links adds interfaces by pairs and returns the index of each by its name.
func (b *bench) links(pairs int) map[string]int {
	b.Helper()
	var batch strings.Builder
	for n := range pairs {
		fmt.Fprintf(&batch, "link add dbr%d type veth peer name other%d\n", n, n)
	}
	file := filepath.Join(b.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	b.host.Run("ip", "-batch", file)
	index := map[string]int{}
	b.host.Do(func() {
		all, err := net.Interfaces()
		if err != nil {
			b.Fatal(err)
		}
		for _, link := range all {
			index[link.Name] = link.Index
		}
	})
	return index
}

func TestKernelPublishKnowsWhoIsInAnInternalNetwork(t *testing.T) {
	b := newBench(t)
	index := b.links(3)
	open := internalZone("dbr2", "172.30.2.0/24")
	open.Internal = false
	both := zoned(map[spec.ID]plan.Zone{one: internalZone("dbr0", "172.30.0.0/24", "fd00:30::/64"), two: internalZone("dbr1", "172.30.1.64/26"), web: open})
	swapped := zoned(map[spec.ID]plan.Zone{one: internalZone("dbr1", "172.30.1.64/26"), two: open})
	const gone = 4711
	for _, step := range []struct {
		name       string
		have, want *plan.Plan
		inside     map[string]bool // by a client's address, or the name of an interface
	}{
		{"no internal network", nil, zoned(map[spec.ID]plan.Zone{web: open}), map[string]bool{"172.30.0.9": false, "dbr0": false, "gone": false}},
		{"two of them", nil, both, map[string]bool{
			"172.30.0.9": true, "172.30.1.127": true, "172.30.1.128": false, "172.30.2.9": false, "fd00:30::9": true, "fd00:31::9": false,
			"dbr0": true, "dbr1": true, "dbr2": false, "other0": false, "gone": true,
		}},
		{"one has become what the other one was", both, swapped, map[string]bool{
			"172.30.0.9": false, "172.30.1.127": true, "fd00:30::9": false, "dbr0": false, "dbr1": true, "dbr2": false,
		}},
		{"none any more", swapped, nobody, map[string]bool{"172.30.1.127": false, "dbr1": false, "gone": false}},
	} {
		b.mustApply(step.have, step.want)
		for who, want := range step.inside {
			client, by := netip.MustParseAddrPort("[2001:db8::9]:4000"), 0
			if addr, err := netip.ParseAddr(who); err == nil {
				client = netip.AddrPortFrom(addr, 4000)
			} else if by = index[who]; who == "gone" {
				by = gone
			}
			var got bool
			b.host.Do(func() { got = b.internal.Has(client, by) })
			if got != want {
				t.Errorf("%s: %s is inside: got %t, want %t", step.name, who, got, want)
			}
		}
	}
}

// TestKernelPublishAsksForOneLinkOfMany counts allocations, since a list of all links
// takes some for each.
func TestKernelPublishAsksForOneLinkOfMany(t *testing.T) {
	b := newBench(t)
	index := b.links(50)["dbr49"]
	b.mustApply(nil, zoned(map[spec.ID]plan.Zone{one: internalZone("dbr0", "172.30.0.0/24")}))
	client := netip.MustParseAddrPort("[fe80::9%2]:4000")
	var allocations float64
	b.host.Do(func() {
		allocations = testing.AllocsPerRun(10, func() {
			if b.internal.Has(client, index) {
				t.Error("the client is in no internal network")
			}
		})
	})
	if allocations > 20 {
		t.Errorf("%.0f allocations for a new client", allocations)
	}
}
