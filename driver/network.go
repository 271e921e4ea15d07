package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/docker/go-plugins-helpers/network"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

func (s *Server) networkCapabilities(context.Context, *nothing) (*networkCapabilities, error) {
	return &networkCapabilities{
		CapabilitiesResponse: network.CapabilitiesResponse{Scope: network.LocalScope, ConnectivityScope: network.LocalScope},
		GwAllocChecker:       true,
	}, nil
}

// checkGatewayAllocation is asked before anything else of a network. So a mistake in
// the options is named here, before a pool is spent on it.
func (s *Server) checkGatewayAllocation(_ context.Context, req *gatewayAllocationRequest) (*gatewayAllocation, error) {
	n := &spec.Network{}
	_, _, err := req.Options.Network(n)
	if err == nil {
		err = n.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("create network: %w", err)
	}
	answer := &gatewayAllocation{}
	answer.SkipIPv4, answer.SkipIPv6 = n.Unaddressed()
	return answer, nil
}

func (s *Server) createNetwork(ctx context.Context, req *createNetworkRequest) (*nothing, error) {
	id, err := networkID(req.NetworkID)
	if err != nil {
		return nil, err
	}
	if err := s.addNetwork(ctx, id, req); err != nil {
		return nil, fmt.Errorf("create network %s: %w", id.Short(), err)
	}
	return &nothing{}, nil
}

func (s *Server) addNetwork(ctx context.Context, id spec.ID, req *createNetworkRequest) error {
	n := &spec.Network{ID: id}
	ipv4, ipv6, err := req.Options.Network(n)
	if err != nil {
		return err
	}
	subnets, err := parseSubnets(req, ipv4, ipv6)
	if err != nil {
		return err
	}
	if err := s.checkIPv6(n, ipv6); err != nil {
		return err
	}
	for _, sub := range subnets {
		if err := sub.checkGateway(n.Internal); err != nil {
			return err
		}
		n.Pools = append(n.Pools, sub.pool)
	}
	if err := s.checkHost(n); err != nil {
		return err
	}
	// What is refused leaves the pools as they are. Then they are told first: should the
	// host not have it, the engine releases them, and if it cannot, they are collected.
	add := func(state *spec.State) error { return state.AddNetwork(n) }
	now := s.engine.Now().State
	if err := add(&now); err != nil {
		return hinted(err)
	}
	if err := s.ipam.Use(string(id), claims(subnets)...); err != nil {
		return err
	}
	return hinted(s.engine.Do(ctx, n.ID, add))
}

// claims are the subnets whose pools are ours.
func claims(subnets []subnet) []ipam.Claim {
	var all []ipam.Claim
	for _, sub := range subnets {
		if sub.ours {
			all = append(all, ipam.Claim{Prefix: sub.pool.Prefix, Auxiliary: sub.auxiliary})
		}
	}
	return all
}

// hinted is the refusal of a network, with a hint where another one is in the way.
func hinted(err error) error {
	if errors.Is(err, spec.ErrInUse) {
		return perhapsForgotten(err)
	}
	return err
}

// perhapsForgotten is for people who meet a network that Docker does not show them.
func perhapsForgotten(err error) error {
	return fmt.Errorf("%w (if Docker does not show that one, drawbridge status tells how to remove it)", err)
}

// checkHost refuses a new network that would take something from the host: the way to
// what the host reaches directly, or an engine's bridge.
func (s *Server) checkHost(n *spec.Network) error {
	now := s.engine.Now()
	if _, err := now.State.Network(n.ID); err == nil {
		return nil // it was checked when it was new
	}
	if plan.Generated(n.Bridge) {
		return fmt.Errorf("bridge %s: %w: Drawbridge gives such names itself; choose another by com.docker.network.bridge.name", n.Bridge, spec.ErrInvalid)
	}
	named := func(e plan.HostLink) bool { return e.Name == n.Bridge }
	if plan.EngineBridge(n.Bridge) || slices.ContainsFunc(now.Plan.Host.Engines, named) {
		return fmt.Errorf("bridge %s: %w: it is an engine's own; choose another by com.docker.network.bridge.name", n.Bridge, spec.ErrInUse)
	}
	// Even to try would take from the interface, for a moment, what forwarding needs of it.
	other := func(e plan.HostLink) bool { return e.Name == n.Bridge && !e.Bridge }
	if slices.ContainsFunc(now.Plan.Host.Uplinks, other) {
		return fmt.Errorf("bridge %s: %w: it is an interface of this host and no bridge; choose another by com.docker.network.bridge.name", n.Bridge, spec.ErrInUse)
	}
	obstacles, err := s.obstacles()
	if err != nil {
		return fmt.Errorf("look at the host's addresses: %w", err)
	}
	for _, o := range plan.Overlaps(n, obstacles) {
		if !o.Allowed() {
			return fmt.Errorf("%w: %s; choose another by --subnet", spec.ErrInUse, o)
		}
		s.log.WithField("network", n.ID).Warnf("%s: containers are reached in its place", o)
	}
	for _, what := range now.Plan.Host.Waived(n) {
		s.log.WithField("network", n.ID).Warnf("without a firewall: %s", what)
	}
	return nil
}

// minIPv6MTU is what IPv6 needs of a link (RFC 8200, section 5); below it the kernel
// turns IPv6 off.
const minIPv6MTU = 1280

func (s *Server) checkIPv6(n *spec.Network, wanted bool) error {
	switch {
	case !wanted:
		return nil
	case !s.engine.Now().Plan.Host.IPv6:
		return fmt.Errorf("enable_ipv6: %w: this host's kernel runs without IPv6", spec.ErrInvalid)
	case n.MTU != 0 && n.MTU < minIPv6MTU:
		return fmt.Errorf("option com.docker.network.driver.mtu=%d: %w: IPv6 needs at least %d", n.MTU, spec.ErrInvalid, minIPv6MTU)
	}
	return nil
}

func (s *Server) deleteNetwork(ctx context.Context, req *network.DeleteNetworkRequest) (*nothing, error) {
	id, err := networkID(req.NetworkID)
	if err != nil {
		return nil, err
	}
	err = s.engine.Do(ctx, id, func(state *spec.State) error {
		state.RemoveNetwork(id)
		return nil
	})
	if err == nil {
		err = s.releasePoolsOf(id)
	}
	if err != nil {
		return nil, fmt.Errorf("delete network %s: %w", id.Short(), err)
	}
	return &nothing{}, nil
}

// releasePoolsOf takes back the pools of a network. The engine did so before it deleted
// the network, unless we died meanwhile: it does not do so again.
func (s *Server) releasePoolsOf(network spec.ID) error {
	var errs []error
	for _, p := range s.ipam.Pools() {
		if p.Network == string(network) {
			errs = append(errs, s.ipam.ReleasePool(p.ID))
		}
	}
	return errors.Join(errs...)
}

// allocateNetwork echoes the options: a swarm's manager sends what it gets here, and
// nothing else, to the nodes.
func (s *Server) allocateNetwork(_ context.Context, req *network.AllocateNetworkRequest) (*network.AllocateNetworkResponse, error) {
	if _, err := networkID(req.NetworkID); err != nil {
		return nil, err
	}
	options := req.Options
	if options == nil {
		options = map[string]string{}
	}
	return &network.AllocateNetworkResponse{Options: options}, nil
}

func (s *Server) freeNetwork(_ context.Context, req *network.FreeNetworkRequest) (*nothing, error) {
	_, err := networkID(req.NetworkID)
	return &nothing{}, err
}

// discover is told of the nodes of a swarm, of which a local driver has no use.
func (s *Server) discover(context.Context, *network.DiscoveryNotification) (*nothing, error) {
	return &nothing{}, nil
}

func networkID(text string) (spec.ID, error) {
	id, err := spec.ParseID(text)
	if err != nil {
		return "", fmt.Errorf("field NetworkID: %w", err)
	}
	return id, nil
}
