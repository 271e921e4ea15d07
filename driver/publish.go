package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// publishPorts publishes what a port map asks for.
//
// A container that has IPv4 alone by us may be on a network of Docker's too that is its
// gateway for IPv6, and publishes its ports there. Engines since 29 tell a plugin of that
// only if the other network was first. If ours was, Docker would find the port taken that
// we serve by IPv6, and not start the container. So where it has networks with IPv6 those
// ports are left to it.
func (s *Server) publishPorts(ctx context.Context, net, id spec.ID, options spec.Options) error {
	state := s.engine.Now().State
	n, ep, err := state.Endpoint(net, id)
	if err != nil {
		return err
	}
	if n.Internal {
		return nil // engines since 29 call even so; Join has said that ports are ignored
	}
	if ep.Sandbox == "" {
		return fmt.Errorf("%w: it is in no container; an engine has it join one first", spec.ErrInvalid)
	}
	ports, err := options.PortMap(n)
	if err = errors.Join(err, ports.Refused, s.checkProtocols(ports)); err != nil {
		return err
	}
	if host := s.engine.Now().Plan.Host; !ep.IPv6.IsValid() && host.HasEngineIPv6() {
		ports.OnlyIPv4 = true
		s.log.WithFields(logrus.Fields{"network": net, "endpoint": id}).Info("ports of IPv6 are left to Docker, which has networks with it")
	}
	if ignored := unserved(ports, ep); ignored != "" {
		s.log.WithFields(logrus.Fields{"network": net, "endpoint": id}).Infof("ignored: %s: the container has no address that it could lead to", ignored)
	}
	change := func() error { return s.engine.Publish(ctx, net, id, ports) }
	// Of ephemeral ports, others are taken and nobody hears of a clash.
	unclear := len(ports.Wishes) > 0 || slices.ContainsFunc(ep.Ports, leadsIPv4)
	if !ports.OnlyIPv4 && unclear && s.leavesIPv4(n, ep) {
		ports = ports.IPv6()
	}
	err = s.makeRoom(ctx, s.engine.EvictUnheard, change)
	if errors.Is(err, syscall.EADDRINUSE) && !ports.OnlyIPv4 && s.leavesIPv4(n, ep) {
		ports = ports.IPv6()
		err = s.makeRoom(ctx, s.engine.EvictUnheard, change)
	}
	return err
}

// unserved names ports that are published and lead nowhere.
func unserved(m spec.PortMap, ep *spec.Endpoint) string {
	const shown = 8
	var all []string
	more := 0
	for _, p := range m.Published() {
		switch {
		case !p.Unserved(ep):
		case len(all) < shown:
			all = append(all, "port "+p.String())
		default:
			more++
		}
	}
	if more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}

// checkProtocols refuses what no proxy speaks where nothing is translated.
func (s *Server) checkProtocols(m spec.PortMap) error {
	if !s.engine.Now().Plan.Host.NoFirewall {
		return nil
	}
	for _, p := range m.Published() {
		if p.Proto == spec.SCTP {
			return fmt.Errorf("publish %s: %w: without a firewall a proxy serves published ports, and it does not speak SCTP", p, spec.ErrInvalid)
		}
	}
	return nil
}

func leadsIPv4(p spec.Port) bool { return !p.Host.IsValid() || p.Host.Is4() }

// leavesIPv4 reports whether an endpoint is its container's gateway for IPv6 alone. An
// engine since 29 says so to nobody. Where the other gateway is ours, that one knows;
// where it is on one of Docker's networks, the container's routes tell. It takes long
// to look at them. So they are looked at only when the engine asks once more for what it
// has, as it does when the other one is about to publish, when the ports are taken, as they
// are when it did so before, and where a number is to be chosen, since any other than the
// taken one would do.
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
