package spec

import (
	"errors"
	"fmt"
	"net/netip"
)

// Pool is one subnet of a network.
type Pool struct {
	Prefix netip.Prefix // e.g. 172.30.0.0/24
	// Gateway is the host's own address in it; the zero Addr where it has none.
	Gateway netip.Addr // e.g. 172.30.0.1
	// DefaultGateway is what containers have for their gateway in place of Gateway;
	// the zero Addr for none.
	DefaultGateway netip.Addr // e.g. 172.30.0.254
}

// String names the subnet and its gateways, as far as there are any.
func (p Pool) String() string {
	text := p.Prefix.String()
	if p.Gateway.IsValid() {
		text += " gateway " + p.Gateway.String()
	}
	if p.DefaultGateway.IsValid() {
		text += " default gateway " + p.DefaultGateway.String()
	}
	return text
}

// linkLocal6 is what is no further than the link (RFC 4291); the kernel itself gives
// addresses of kernelsOwnLink only.
var (
	linkLocal6     = netip.MustParsePrefix("fe80::/10") //nolint:gochecknoglobals // a constant
	kernelsOwnLink = netip.MustParsePrefix("fe80::/64") //nolint:gochecknoglobals // a constant
)

// unusable are the prefixes in which no host can have an address.
var unusable = [...]struct { //nolint:gochecknoglobals // a table of the RFCs
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "0.0.0.0/8 means the host itself (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "127.0.0.0/8 is loopback"},
	{netip.MustParsePrefix("224.0.0.0/4"), "224.0.0.0/4 is multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "255.255.255.255 is broadcast"},
	{netip.MustParsePrefix("::/127"), "::1 is loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "::ffff:0:0/96 is IPv4 written as IPv6"},
	{netip.MustParsePrefix("ff00::/8"), "ff00::/8 is multicast"},
}

// Check refuses what can be no subnet.
func (p Pool) Check() error {
	if !p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() {
		return fmt.Errorf("subnet %s: %w: its address has bits behind the length; want %s", p.Prefix, ErrInvalid, p.Prefix.Masked())
	}
	for _, u := range unusable {
		if p.Prefix.Overlaps(u.prefix) {
			return fmt.Errorf("subnet %s: %w: %s", p.Prefix, ErrInvalid, u.why)
		}
	}
	if p.Prefix.Overlaps(kernelsOwnLink) && p.Prefix != kernelsOwnLink {
		return fmt.Errorf("subnet %s: %w: it overlaps fe80::/64, from which every interface has an address; want fe80::/64 itself or another", p.Prefix, ErrInvalid)
	}
	for _, gateway := range []netip.Addr{p.Gateway, p.DefaultGateway} {
		if !gateway.IsValid() {
			continue
		}
		if err := p.checkHost(gateway); err != nil {
			return fmt.Errorf("gateway %s: %w: %w", gateway, ErrInvalid, err)
		}
	}
	return nil
}

// LinkLocal reports whether the subnet ends at the bridge: no packet from or to it is
// routed.
func (p Pool) LinkLocal() bool { return linkLocal6.Overlaps(p.Prefix) }

// checkHost refuses an address that no host of the subnet can have. Subnets of two
// addresses or one have no network and no broadcast address (RFC 3021).
func (p Pool) checkHost(addr netip.Addr) error {
	switch {
	case !p.Prefix.Contains(addr):
		return fmt.Errorf("it lies outside %s", p.Prefix)
	case addr.Is6() || p.Prefix.Bits() > 30:
		return nil
	case addr == p.Prefix.Addr():
		return fmt.Errorf("it is the address of the network %s itself", p.Prefix)
	case !addr.Next().IsValid() || !p.Prefix.Contains(addr.Next()):
		return errors.New("it is the broadcast address of " + p.Prefix.String())
	}
	return nil
}
