package driver

import (
	"net/netip"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Live tells ipam.Allocator.Collect what there still is of an engine's networks.
func Live(e *engine.Engine) ipam.Live { return live{e} }

type live struct{ engine *engine.Engine }

func (l live) Network(id string) bool {
	_, ok := l.engine.Now().State.Networks.Get(spec.ID(id))
	return ok
}

func (l live) Address(network string, addr netip.Addr) bool {
	n, ok := l.engine.Now().State.Networks.Get(spec.ID(network))
	if !ok {
		return false
	}
	_, held := n.Holder(addr)
	return held
}
