package spec

import (
	"errors"
	"fmt"
	"net/netip"
)

// GatewayMode says how containers and the world outside reach each other in one
// family (https://docs.docker.com/engine/network/port-publishing/#gateway-modes).
type GatewayMode string

// The gateway modes. The zero value is NAT.
const (
	// NAT publishes ports on the host's addresses and masquerades what leaves.
	NAT GatewayMode = ""
	// Unprotected is NAT, and every port of a container can be reached by the
	// container's own address besides.
	Unprotected GatewayMode = "nat-unprotected"
	// Routed translates nothing: published ports can be reached by the container's
	// own address only, and so does whatever leaves show it.
	Routed GatewayMode = "routed"
	// Isolated leaves the bridge without an address, so that not even the host is
	// reached. Only internal networks can have it.
	Isolated GatewayMode = "isolated"
)

// String is the mode as an option spells it.
func (m GatewayMode) String() string {
	if m == NAT {
		return "nat"
	}
	return string(m)
}

func parseGatewayMode(text string) (any, error) {
	switch m := GatewayMode(text); m {
	case "nat":
		return NAT, nil
	case Unprotected, Routed, Isolated:
		return m, nil
	}
	return nil, errors.New("want nat, nat-unprotected, routed or isolated")
}

// maxPools bounds the subnets of one network.
const maxPools = 256

// Check refuses settings that contradict each other, whatever else there is.
func (n *Network) Check() error {
	for _, m := range []GatewayMode{n.Mode4, n.Mode6} {
		if m == Isolated && !n.Internal {
			return fmt.Errorf("gateway mode isolated: %w: only an internal network can have it; add --internal", ErrInvalid)
		}
	}
	if len(n.Pools) > maxPools {
		return fmt.Errorf("%d subnets: %w: at most %d make sense", len(n.Pools), ErrInvalid, maxPools)
	}
	for i, p := range n.Pools {
		if err := p.Check(); err != nil {
			return err
		}
		for _, q := range n.Pools[:i] {
			if p.Prefix.Overlaps(q.Prefix) {
				return fmt.Errorf("subnet %s: %w: it overlaps subnet %s of the same network", p.Prefix, ErrInvalid, q.Prefix)
			}
		}
	}
	return nil
}

// Addressed reports whether the bridge has the gateway's address of a pool.
func (n *Network) Addressed(p Pool) bool {
	inhibited := n.InhibitIPv4 && p.Prefix.Addr().Is4()
	return p.Gateway.IsValid() && !inhibited && n.Mode(p.Prefix.Addr()) != Isolated
}

// GatewayOf is what a container with this address has for its gateway; the zero
// Addr for none.
func (n *Network) GatewayOf(addr netip.Addr) netip.Addr {
	pool, ok := n.Pool(addr)
	switch {
	case !ok || n.Internal:
		return netip.Addr{}
	case pool.DefaultGateway.IsValid():
		return pool.DefaultGateway
	}
	return pool.Gateway
}

// Unaddressed says, each for its family, that no gateway's address is needed: the
// bridge does not have it, and no container is told of it.
func (n *Network) Unaddressed() (ipv4, ipv6 bool) {
	return n.Mode4 == Isolated || n.InhibitIPv4 && n.Internal, n.Mode6 == Isolated
}
