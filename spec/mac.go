package spec

import (
	"crypto/sha256"
	"fmt"
	"net"
)

// MAC is an Ethernet address of 48 bits; the zero MAC is none.
type MAC [6]byte

// ParseMAC reads a unicast address in any form that net.ParseMAC reads.
func ParseMAC(text string) (MAC, error) {
	raw, err := net.ParseMAC(text)
	if err != nil || len(raw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("MAC address %.40q: %w: want six bytes, e.g. 02:42:ac:11:00:02", text, ErrInvalid)
	}
	mac := MAC(raw)
	if mac == (MAC{}) || mac[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %s: %w: an interface needs a unicast address", text, ErrInvalid)
	}
	return mac, nil
}

// String is the usual form with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes the form of String; "" for none.
func (m MAC) MarshalText() ([]byte, error) {
	if m == (MAC{}) {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	parsed, err := ParseMAC(string(text))
	*m = parsed
	return err
}

// DeriveMAC is a locally administered unicast address (IEEE 802, section 8.4)
// that depends on nothing but the parts: the same place keeps the same MAC over
// restarts, so neighbours' caches stay right.
func DeriveMAC(parts ...string) MAC {
	hash := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(hash, "%d %s\n", len(p), p)
	}
	mac := MAC(hash.Sum(nil)[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// EndpointMAC is the MAC of an endpoint that was not asked to have another: one
// address on one network has one MAC. Where there is no address, the ID stands for it.
func EndpointMAC(network ID, ep *Endpoint) MAC {
	parts := []string{"endpoint", string(network)}
	for _, a := range ep.Addresses() {
		parts = append(parts, a.Addr().String())
	}
	if len(parts) == 2 {
		parts = append(parts, string(ep.ID))
	}
	return DeriveMAC(parts...)
}
