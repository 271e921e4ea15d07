package driver

import (
	"context"
	"net/netip"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Live tells an Allocator what there is of the State's networks.
type Live struct{ State spec.State }

var _ ipam.Live = Live{}

// Network reports whether there is a network with this ID.
func (l Live) Network(id string) bool {
	_, err := l.State.Network(spec.ID(id))
	return err == nil
}

// Address reports whether an endpoint of that network has the address.
func (l Live) Address(network string, addr netip.Addr) bool {
	n, err := l.State.Network(spec.ID(network))
	if err != nil {
		return false
	}
	_, held := n.Holder(addr)
	return held
}

// activate is called once in an engine's life, before anything else: what one that was
// killed had asked for and not yet used, nobody waits for any more. Where a second engine
// lives, that may be its own: what the first one left is found to be idle in minutes.
func (s *Server) activate(ctx context.Context, _ *nothing) (*manifest, error) {
	answer := &manifest{Implements: []string{"NetworkDriver", "IpamDriver"}}
	if s.callers.others(ctx) {
		return answer, nil
	}
	s.engine.Restarted(ctx)
	lost, err := s.ipam.Restarted(Live{s.engine.Now().State})
	for _, l := range lost {
		s.log.WithFields(logrus.Fields{"pool": l.Pool, "address": l.Addr}).Info("took back an address that an engine left behind when it died")
	}
	if err != nil {
		s.log.WithError(err).Warn("take back addresses")
	}
	return answer, nil
}
