package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/spec"
)

// publish is called for the endpoint that becomes its container's gateway, and only
// here do published ports count: every endpoint of the container is told of them.
func (s *Server) publish(ctx context.Context, req *publishRequest) (*nothing, error) {
	net, id, err := endpointIDs(req.NetworkID, req.EndpointID)
	if err != nil {
		return nil, err
	}
	if err := s.publishPorts(ctx, net, id, req.Options); err != nil {
		return nil, fmt.Errorf("publish ports of endpoint %s: %w", id.Short(), err)
	}
	return &nothing{}, nil
}

func (s *Server) publishPorts(ctx context.Context, net, id spec.ID, options spec.Options) error {
	state := s.engine.Now().State
	n, ep, err := state.Endpoint(net, id)
	if err != nil {
		return err
	}
	ports, err := options.PortMap(n)
	if n.Internal {
		// Engines since 29 call even so. As on Docker's own internal networks,
		// nothing is published.
		if len(ports.Ports) > 0 || err != nil || ports.Refused != nil {
			s.log.WithFields(logrus.Fields{"network": net, "endpoint": id}).Info("ports are ignored: the network is internal")
		}
		return nil
	}
	if err = errors.Join(err, ports.Refused); err != nil {
		return err
	}
	for _, p := range ports.Ports {
		if p.Unserved(ep) {
			s.log.WithFields(logrus.Fields{"network": net, "endpoint": id}).Infof("port %s is ignored: the container has no address that it could lead to", p)
		}
	}
	change := func(state *spec.State) error { return state.Publish(net, id, ports.Ports, ports.OnlyIPv4) }
	if !ports.OnlyIPv4 && slices.ContainsFunc(ep.Ports, leadsIPv4) && s.leavesIPv4(n, ep) {
		ports.Ports = ports.IPv6()
	}
	err = s.makeRoom(ctx, s.engine.EvictUnheard, change)
	if errors.Is(err, syscall.EADDRINUSE) && !ports.OnlyIPv4 && s.leavesIPv4(n, ep) {
		ports.Ports = ports.IPv6()
		err = s.makeRoom(ctx, s.engine.EvictUnheard, change)
	}
	return err
}

func leadsIPv4(p spec.Port) bool { return !p.Host.IsValid() || p.Host.Is4() }

// leavesIPv4 reports whether an endpoint is its container's gateway for IPv6 alone. An
// engine since 29 says so to nobody. Where the other gateway is ours, that one knows;
// where it is on one of Docker's networks, the container's routes tell. It takes long
// to look at them. So they are looked at only when the engine asks once more for what it
// has, as it does when the other one is about to publish, and when the ports are taken,
// as they are when it did so before.
func (s *Server) leavesIPv4(n *spec.Network, ep *spec.Endpoint) bool {
	if !ep.IPv4.IsValid() || !ep.IPv6.IsValid() {
		return false
	}
	gateway, err := s.engine.Gateway(ep)
	log := s.log.WithFields(logrus.Fields{"network": n.ID, "endpoint": ep.ID})
	switch {
	case err != nil:
		log.WithError(err).Warn("look for the container's gateway")
		return false
	case !gateway.IsValid() || gateway == n.GatewayOf(ep.IPv4.Addr()):
		return false
	}
	log.Infof("ports are published for IPv6 alone: with IPv4 the container goes out by %s", gateway)
	return true
}
