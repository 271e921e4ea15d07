package publish

import (
	"net"
	"net/netip"
	"sync"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Internal knows the internal networks: whoever is in one is served no published port,
// as what the firewall translates does not leave one, either. The zero Internal knows
// none.
type Internal struct {
	mu    sync.RWMutex
	zones map[spec.ID]*plan.Zone
}

// update takes in where two plans differ; all of want if have is nil.
func (i *Internal) update(have, want *plan.Plan) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if have == nil {
		have = &plan.Plan{}
		i.zones = nil
	}
	if i.zones == nil {
		i.zones = map[spec.ID]*plan.Zone{}
	}
	for n := range tree.Diff(have.Networks, want.Networks) {
		delete(i.zones, n.Key)
		if n.New != nil && n.New.Zone.Internal {
			i.zones[n.Key] = n.New.Zone
		}
	}
}

// Has reports whether a client is in an internal network: by its address, or by the
// interface that its packet came in by, if that is known and not 0.
func (i *Internal) Has(client netip.AddrPort, ifindex int) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if len(i.zones) == 0 {
		return false
	}
	bridge := ""
	if ifindex != 0 {
		if link, err := net.InterfaceByIndex(ifindex); err == nil {
			bridge = link.Name
		}
	}
	for _, z := range i.zones {
		if z.Bridge == bridge {
			return true
		}
		for _, s := range z.Subnets {
			if s.Prefix.Contains(client.Addr()) {
				return true
			}
		}
	}
	return false
}
