package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	wire "github.com/docker/go-plugins-helpers/ipam"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/spec"
)

// The names of our address spaces. They must differ, because engines since 27 look
// for no overlap in the global one; every engine remembers them with its networks.
const (
	localSpace  = "drawbridge-local"
	globalSpace = "drawbridge-global"
)

// The options of an address request (daemon/libnetwork/ipamapi and netlabel in
// github.com/moby/moby).
const (
	optionAddressType = "RequestAddressType"
	gatewayType       = "com.docker.network.gateway"
	optionMAC         = "com.docker.network.endpoint.macaddress"
	optionName        = "com.docker.network.endpoint.name" // engines since 29
)

// Bounds of what an engine sends back to us, and of a container's name.
const (
	maxPoolID = 128
	maxName   = 255
)

// ipamCapabilities wants no MAC before the address and no replay at the engine's
// start: the one would come from the address, the other is what our store is for.
func (s *Server) ipamCapabilities(context.Context, *nothing) (*ipamCapabilities, error) {
	return &ipamCapabilities{}, nil
}

func (s *Server) addressSpaces(context.Context, *nothing) (*wire.AddressSpacesResponse, error) {
	return &wire.AddressSpacesResponse{LocalDefaultAddressSpace: localSpace, GlobalDefaultAddressSpace: globalSpace}, nil
}

func (s *Server) requestPool(_ context.Context, req *wire.RequestPoolRequest) (*wire.RequestPoolResponse, error) {
	r, err := parsePoolRequest(req)
	if err != nil {
		return nil, fmt.Errorf("request pool: %w", err)
	}
	p, err := s.ipam.RequestPool(r)
	if errors.Is(err, ipam.ErrOverlap) {
		err = perhapsForgotten(err)
	}
	if err != nil {
		return nil, err
	}
	return &wire.RequestPoolResponse{PoolID: p.ID, Pool: p.Prefix.String(), Data: map[string]string{}}, nil
}

func parsePoolRequest(req *wire.RequestPoolRequest) (r ipam.PoolRequest, err error) {
	r.V6 = req.V6
	for _, key := range slices.Sorted(maps.Keys(req.Options)) {
		if strings.HasPrefix(strings.ToLower(key), "drawbridge.") {
			return r, fmt.Errorf("option %.80q: %w: Drawbridge's IPAM has no options", key, spec.ErrInvalid)
		}
	}
	if req.AddressSpace != localSpace {
		return r, fmt.Errorf("field AddressSpace: %.80q: %w: want %s", req.AddressSpace, spec.ErrInvalid, localSpace)
	}
	if r.Prefix, err = parseAddress("Pool", req.Pool, req.V6); err != nil {
		return r, err
	}
	r.Range, err = parseAddress("SubPool", req.SubPool, req.V6)
	return r, err
}

// releasePool takes a pool back, and the network that was made of it: an engine releases
// the pools of a network before it deletes it, and releases them too when the network's
// creation failed, which it may think only because our answer was lost. Then it never
// asks for the network's end.
func (s *Server) releasePool(ctx context.Context, req *wire.ReleasePoolRequest) (*nothing, error) {
	if err := checkPoolID(req.PoolID); err != nil {
		return nil, err
	}
	if id := spec.ID(s.ipam.Network(req.PoolID)); id != "" {
		err := s.engine.Do(ctx, id, func(state *spec.State) error {
			state.RemoveNetwork(id)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("release pool %s: delete network %s: %w", req.PoolID, id.Short(), err)
		}
	}
	return &nothing{}, s.ipam.ReleasePool(req.PoolID)
}

func (s *Server) requestAddress(ctx context.Context, req *wire.RequestAddressRequest) (*wire.RequestAddressResponse, error) {
	r, err := parseAddressRequest(req)
	if err != nil {
		return nil, fmt.Errorf("request address: %w", err)
	}
	addr, err := s.ipam.RequestAddress(r)
	if errors.Is(err, ipam.ErrOverlap) && s.reclaim(ctx, r) {
		addr, err = s.ipam.RequestAddress(r)
	}
	if err != nil {
		return nil, err
	}
	return &wire.RequestAddressResponse{Address: addr.String(), Data: map[string]string{}}, nil
}

// reclaim takes back an address that was asked for by name from an endpoint of whose
// end we were not told, or from one that never came to be, and reports whether it did.
func (s *Server) reclaim(ctx context.Context, r ipam.AddressRequest) bool {
	state := s.engine.Now().State
	if net, id, held := state.Holder(r.Addr); held {
		gone, err := s.engine.EvictUnheard(ctx, net, id)
		if err == nil && gone {
			err = s.ipam.ReleaseAddress(r.Pool, r.Addr)
		}
		if err != nil {
			s.log.WithField("endpoint", id).WithError(err).Warn("reclaim an address")
		}
		return gone && err == nil
	}
	back, err := s.ipam.Reclaim(r.Pool, r.Addr)
	if err != nil {
		s.log.WithError(err).Warn("reclaim an address")
	}
	return back
}

func parseAddressRequest(req *wire.RequestAddressRequest) (ipam.AddressRequest, error) {
	r := ipam.AddressRequest{Pool: req.PoolID}
	if err := checkPoolID(req.PoolID); err != nil {
		return r, err
	}
	if req.Address != "" {
		var err error
		if r.Addr, err = parseBareAddress(req.Address); err != nil {
			return r, err
		}
	}
	switch kind := req.Options[optionAddressType]; kind {
	case "":
	case gatewayType:
		r.Gateway = true
	default:
		return r, fmt.Errorf("option %s=%.80q: %w: want %s", optionAddressType, kind, spec.ErrInvalid, gatewayType)
	}
	var err error
	r.Owner, err = owner(req.Options)
	return r, err
}

// owner is the name of the container, or its MAC from engines that tell no name.
func owner(options map[string]string) (string, error) {
	mac, name := options[optionMAC], options[optionName]
	if mac != "" {
		parsed, err := spec.ParseMAC(mac)
		if err != nil {
			return "", fmt.Errorf("option %s: %w", optionMAC, err)
		}
		mac = parsed.String()
	}
	if len(name) > maxName || strings.ContainsFunc(name, unprintable) {
		return "", fmt.Errorf("option %s=%.80q: %w: want at most %d printable characters", optionName, name, spec.ErrInvalid, maxName)
	}
	if name == "" {
		return mac, nil
	}
	return name, nil
}

// releaseAddress gives an address back.
func (s *Server) releaseAddress(ctx context.Context, req *wire.ReleaseAddressRequest) (*nothing, error) {
	if err := checkPoolID(req.PoolID); err != nil {
		return nil, err
	}
	addr, err := parseBareAddress(req.Address)
	if err != nil {
		return nil, err
	}
	if err := s.forfeit(ctx, req.PoolID, addr); err != nil {
		return nil, fmt.Errorf("release address %s: %w", addr, err)
	}
	return &nothing{}, s.ipam.ReleaseAddress(req.PoolID, addr)
}

// forfeit is about an address that is released while an endpoint has it. If nobody is in
// that one, the engine knows nothing of it: our answer to its creation was lost, or we
// were away when it was to be deleted. Else an engine since 28 has found that IPv6 is off
// in the container, by a sysctl of the endpoint, and tells the network's driver nothing.
func (s *Server) forfeit(ctx context.Context, pool string, addr netip.Addr) error {
	state := s.engine.Now().State
	net, id, held := state.Holder(addr)
	if !held || !s.ipam.Leased(pool, addr) {
		return nil
	}
	if gone, err := s.engine.Evict(ctx, net, id); err != nil || gone || addr.Is4() {
		return err
	}
	s.log.WithField("endpoint", id).Infof("address %s was released: IPv6 is off in the container", addr)
	return s.engine.Do(ctx, net, func(state *spec.State) error { return state.Forfeit(net, id) })
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func checkPoolID(id string) error {
	if id == "" || len(id) > maxPoolID || strings.ContainsFunc(id, unprintable) {
		return fmt.Errorf("field PoolID: %.80q: %w: want what RequestPool answered", id, spec.ErrInvalid)
	}
	return nil
}

// parseBareAddress reads e.g. 172.30.0.5.
func parseBareAddress(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return netip.Addr{}, fmt.Errorf("field Address: %.80q: %w: want an IPv4 or IPv6 address, e.g. 172.30.0.5", text, spec.ErrInvalid)
	}
	return addr, nil
}
