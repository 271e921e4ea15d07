package driver

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/docker/go-plugins-helpers/network"

	"github.com/drawbridge-net/drawbridge/spec"
)

// subnet is one element of IPv4Data or IPv6Data.
type subnet struct {
	field     string // e.g. IPv4Data[0]
	pool      spec.Pool
	ours      bool // our own IPAM gave the pool
	auxiliary []netip.Addr
}

// parseSubnets reads the subnets of both families, those of IPv4 first. There are none
// where neither is enabled, and where the IPAM is Docker's null.
func parseSubnets(req *createNetworkRequest, ipv4, ipv6 bool) ([]subnet, error) {
	var all []subnet
	for _, family := range []struct {
		field   string
		data    []*network.IPAMData
		enabled bool
		is6     bool
	}{{"IPv4Data", req.IPv4Data, ipv4, false}, {"IPv6Data", req.IPv6Data, ipv6, true}} {
		switch given := len(family.data) > 0; {
		case family.enabled && !given:
			return nil, fmt.Errorf("field %s: %w: it is empty, but the family is enabled", family.field, spec.ErrInvalid)
		case given && !family.enabled:
			return nil, fmt.Errorf("field %s: %w: there are pools, but the family is not enabled", family.field, spec.ErrInvalid)
		}
		for i, data := range family.data {
			sub, err := parseSubnet(fmt.Sprintf("%s[%d]", family.field, i), data, family.is6)
			if err != nil {
				return nil, err
			}
			if sub.pool.Prefix.Bits() > 0 {
				all = append(all, sub)
			}
		}
	}
	return all, nil
}

func parseSubnet(field string, data *network.IPAMData, is6 bool) (subnet, error) {
	s := subnet{field: field}
	if data == nil {
		return s, fmt.Errorf("field %s: %w: want an object, got null", field, spec.ErrInvalid)
	}
	s.ours = data.AddressSpace == localSpace
	prefix, err := parsePrefix(field+".Pool", data.Pool)
	switch {
	case err != nil:
		return s, err
	case prefix.Addr().Is6() != is6:
		return s, fmt.Errorf("field %s.Pool: %s: %w: it is of the other family", field, prefix, spec.ErrInvalid)
	case prefix.Bits() == 0:
		return s, nil
	}
	s.pool.Prefix = prefix
	if data.Gateway != "" {
		gateway, err := parsePrefix(field+".Gateway", data.Gateway)
		if err != nil {
			return s, err
		}
		if gateway.Bits() != prefix.Bits() {
			return s, fmt.Errorf("field %s.Gateway: %s: %w: its length is not that of %s", field, gateway, spec.ErrInvalid, prefix)
		}
		s.pool.Gateway = gateway.Addr()
	}
	if err := s.parseAuxiliary(data.AuxAddresses); err != nil {
		return s, err
	}
	if err := s.pool.Check(); err != nil {
		return s, fmt.Errorf("field %s: %w", field, err)
	}
	return s, nil
}

// parseAuxiliary reads the addresses that belong to none of the network's endpoints,
// in the order of their names. By two of the names Docker's bridge driver knows the
// gateway that containers are to have in place of the host.
func (s *subnet) parseAuxiliary(named map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(named)) {
		at := fmt.Sprintf("%s.AuxAddresses[%.80q]", s.field, name)
		text, ok := named[name].(string)
		if !ok {
			return fmt.Errorf("field %s: %.80s: %w: want a string", at, jsonText(named[name]), spec.ErrInvalid)
		}
		p, err := parsePrefix(at, text)
		if err != nil {
			return err
		}
		if !s.pool.Prefix.Contains(p.Addr()) {
			return fmt.Errorf("field %s: %s: %w: it lies outside %s", at, p, spec.ErrInvalid, s.pool.Prefix)
		}
		if name == auxiliaryGateway(p.Addr()) {
			s.pool.DefaultGateway = p.Addr()
		}
		s.auxiliary = append(s.auxiliary, p.Addr())
	}
	return nil
}

// jsonText is a value that came as JSON, as it came.
func jsonText(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("driver: encode %T: %v", v, err))
	}
	return text
}

// auxiliaryGateway is the name by which an auxiliary address is the gateway of
// containers in its family.
func auxiliaryGateway(addr netip.Addr) string {
	if addr.Is4() {
		return "DefaultGatewayIPv4"
	}
	return "DefaultGatewayIPv6"
}

// checkGateway refuses a network that containers could not leave: an engine gives
// those an interface on docker_gwbridge, and with it everything that was meant to
// be ours.
func (s subnet) checkGateway(internal bool) error {
	if gateway := s.pool.DefaultGateway; internal && gateway.Is4() {
		return fmt.Errorf("field %s.AuxAddresses[%q]: %s: %w: an internal network has no gateway",
			s.field, auxiliaryGateway(gateway), gateway, spec.ErrInvalid)
	}
	if internal || s.pool.Gateway.IsValid() || s.pool.DefaultGateway.IsValid() {
		return nil
	}
	return fmt.Errorf("field %s.Gateway: %w: there is none, and no container could leave %s; name one with --gateway, or make the network --internal",
		s.field, spec.ErrInvalid, s.pool.Prefix)
}

// parsePrefix reads e.g. 172.30.0.5/24.
func parsePrefix(field, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("field %s: %.80q: %w: want an address with its length, e.g. 172.30.0.5/24", field, text, spec.ErrInvalid)
	}
	return p, nil
}
