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
}

// unusable are the prefixes in which no host can have an address, or not yet.
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
	{netip.MustParsePrefix("fe80::/10"), "link-local subnets are not built yet"},
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
	if !p.Gateway.IsValid() {
		return nil
	}
	if err := p.checkHost(p.Gateway); err != nil {
		return fmt.Errorf("gateway %s: %w: %w", p.Gateway, ErrInvalid, err)
	}
	return nil
}

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
