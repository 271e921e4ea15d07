package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/docker/go-plugins-helpers/network"
	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// maxPath is the kernel's bound for a path (PATH_MAX in linux/limits.h).
const maxPath = 4096

func (s *Server) createEndpoint(ctx context.Context, req *createEndpointRequest) (*network.CreateEndpointResponse, error) {
	net, id, err := endpointIDs(req.NetworkID, req.EndpointID)
	if err != nil {
		return nil, err
	}
	ep, err := parseEndpoint(net, id, req)
	if err == nil {
		err = s.addEndpoint(ctx, net, ep)
	}
	if err != nil {
		return nil, fmt.Errorf("create endpoint %s: %w", id.Short(), err)
	}
	// Only what the request left empty may be answered; the engine takes even an
	// equal value for an attempt to change its own.
	answer := &network.EndpointInterface{}
	if req.Interface.MacAddress == "" {
		answer.MacAddress = ep.MAC.String()
	}
	return &network.CreateEndpointResponse{Interface: answer}, nil
}

func parseEndpoint(net, id spec.ID, req *createEndpointRequest) (*spec.Endpoint, error) {
	ep := &spec.Endpoint{ID: id}
	if err := req.Options.Endpoint(ep); err != nil {
		return nil, err
	}
	if req.Interface == nil {
		req.Interface = &network.EndpointInterface{}
	}
	var err4, err6 error
	ep.IPv4, err4 = parseAddress("Interface.Address", req.Interface.Address, false)
	ep.IPv6, err6 = parseAddress("Interface.AddressIPv6", req.Interface.AddressIPv6, true)
	if err := errors.Join(err4, err6); err != nil {
		return nil, err
	}
	if req.Interface.MacAddress == "" {
		ep.MAC = spec.EndpointMAC(net, ep)
		return ep, nil
	}
	mac, err := spec.ParseMAC(req.Interface.MacAddress)
	if err != nil {
		return nil, fmt.Errorf("field Interface.MacAddress: %w", err)
	}
	ep.MAC = mac
	return ep, nil
}

func parseAddress(field, text string, is6 bool) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := parsePrefix(field, text)
	if err == nil && p.Addr().Is6() != is6 {
		err = fmt.Errorf("field %s: %s: %w: it is of the other family", field, p, spec.ErrInvalid)
	}
	return p, err
}

// addEndpoint adds an endpoint. If others hold its addresses, they make room if they
// are dead: an engine that was killed never deletes its endpoints and gives their
// addresses to new ones.
func (s *Server) addEndpoint(ctx context.Context, net spec.ID, ep *spec.Endpoint) error {
	return s.makeRoom(ctx, s.engine.Evict, func() error {
		return s.engine.Do(ctx, net, func(state *spec.State) error { return state.AddEndpoint(net, ep) })
	})
}

// evict removes an endpoint if it is dead, and reports whether it is gone.
type evict func(ctx context.Context, network, endpoint spec.ID) (gone bool, err error)

// makeRoom makes a change, and evicts whoever has what it needs: of those who have a number
// of a range each, one is enough.
func (s *Server) makeRoom(ctx context.Context, evict evict, change func() error) error {
	asked := map[spec.ID]bool{}
	for {
		err := change()
		room, evictErrs := false, []error(nil)
		for _, held := range holders(err) {
			if room || asked[held.Holder] {
				continue
			}
			asked[held.Holder] = true
			var evictErr error
			if room, evictErr = evict(ctx, held.Network, held.Holder); room {
				s.log.WithField("endpoint", held.Holder).Infof("evicted: it was dead, and its %s is needed", held.What)
			}
			evictErrs = append(evictErrs, evictErr)
		}
		if !room {
			return errors.Join(append([]error{err}, evictErrs...)...)
		}
	}
}

// holders are those whom a refusal names.
func holders(err error) []*spec.HeldError {
	held, full := (*spec.HeldError)(nil), (*spec.RangeError)(nil)
	switch {
	case errors.As(err, &full):
		var all []*spec.HeldError
		for _, taken := range full.Taken {
			all = append(all, holders(taken)...)
		}
		return all
	case errors.As(err, &held):
		return []*spec.HeldError{held}
	}
	return nil
}

// endpointInfo never fails, since engines up to 27 would not start the container,
// and says nothing, since no engine reads what a remote driver says.
func (s *Server) endpointInfo(context.Context, *network.InfoRequest) (*network.InfoResponse, error) {
	return &network.InfoResponse{Value: map[string]string{}}, nil
}

func (s *Server) join(ctx context.Context, req *joinRequest) (*joinResponse, error) {
	net, id, err := endpointIDs(req.NetworkID, req.EndpointID)
	if err != nil {
		return nil, err
	}
	if err := checkSandbox(req.SandboxKey); err != nil {
		return nil, fmt.Errorf("join endpoint %s: %w", id.Short(), err)
	}
	var n *spec.Network
	var before, ep *spec.Endpoint
	err = s.engine.Do(ctx, net, func(state *spec.State) (err error) {
		if _, before, err = state.Endpoint(net, id); err != nil {
			return err
		}
		if err := state.Join(net, id, req.SandboxKey); err != nil {
			return err
		}
		if err := openPorts(state, net, id, req.Options); err != nil {
			return err
		}
		n, ep, err = state.Endpoint(net, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("join endpoint %s: %w", id.Short(), err)
	}
	s.engine.Joined(req.SandboxKey)
	if n.Internal && before.Sandbox == "" && req.Options.Publishes() {
		s.log.WithFields(logrus.Fields{"network": net, "endpoint": id}).Info("ports are ignored: the network is internal")
	}
	return newJoinResponse(n, ep), nil
}

// checkSandbox refuses what is no path of a network namespace, at which we look later on.
func checkSandbox(path string) error {
	if len(path) > maxPath || !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsFunc(path, unprintable) {
		return fmt.Errorf("field SandboxKey: %.80q: %w: want the absolute path of a network namespace, e.g. /var/run/docker/netns/1eee51bd70de", path, spec.ErrInvalid)
	}
	return nil
}

// openPorts opens what needs no translation. That is the same whether or not the
// endpoint is its container's gateway, and only if it is the engine calls again.
func openPorts(state *spec.State, net, id spec.ID, options spec.Options) error {
	n, err := state.Network(net)
	if err != nil || n.Internal || n.Mode4 != spec.Routed && n.Mode6 != spec.Routed {
		return err
	}
	ports, err := options.PortMap(n)
	if err != nil {
		return err
	}
	return state.Open(net, id, ports.Open)
}

// newJoinResponse tells the engine what to move into the container. Default routes
// are told as gateways only, because engines since 28 refuse them as static routes.
func newJoinResponse(n *spec.Network, ep *spec.Endpoint) *joinResponse {
	r := &joinResponse{InterfaceName: interfaceName{
		InterfaceName: network.InterfaceName{SrcName: plan.PeerName(ep), DstPrefix: n.InterfacePrefix},
		DstName:       ep.InterfaceName,
	}}
	r.DisableGatewayService = true // no docker_gwbridge beside us
	r.Gateway = text(n.GatewayOf(ep.IPv4.Addr()))
	r.GatewayIPv6 = text(n.GatewayOf(ep.IPv6.Addr()))
	return r
}

// text is "" for the zero Addr.
func text(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// leave leaves the veth pair alone: its end is still in the container, and the
// engine brings it back before it deletes the endpoint.
func (s *Server) leave(ctx context.Context, req *network.LeaveRequest) (*nothing, error) {
	return s.undo(ctx, "leave", req.NetworkID, req.EndpointID, (*spec.State).Leave)
}

func (s *Server) deleteEndpoint(ctx context.Context, req *network.DeleteEndpointRequest) (*nothing, error) {
	return s.undo(ctx, "delete", req.NetworkID, req.EndpointID, (*spec.State).RemoveEndpoint)
}

func (s *Server) revoke(ctx context.Context, req *network.RevokeExternalConnectivityRequest) (*nothing, error) {
	return s.undo(ctx, "unpublish", req.NetworkID, req.EndpointID, (*spec.State).Unpublish)
}

// undo takes something back from an endpoint. One that is not known has nothing.
func (s *Server) undo(ctx context.Context, what, network, endpoint string, change func(*spec.State, spec.ID, spec.ID)) (*nothing, error) {
	net, id, err := endpointIDs(network, endpoint)
	if err != nil {
		return nil, err
	}
	err = s.engine.Do(ctx, net, func(state *spec.State) error {
		change(state, net, id)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s endpoint %s: %w", what, id.Short(), err)
	}
	return &nothing{}, nil
}

func endpointIDs(network, endpoint string) (net, id spec.ID, err error) {
	if net, err = networkID(network); err != nil {
		return "", "", err
	}
	if id, err = spec.ParseID(endpoint); err != nil {
		return "", "", fmt.Errorf("field EndpointID: %w", err)
	}
	return net, id, nil
}
