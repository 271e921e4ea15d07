package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Range is where pools are chosen from.
type Range struct {
	Prefix netip.Prefix // e.g. 10.208.0.0/12
	Size   int          // length of the pools where the request names none, e.g. 24
}

// DefaultRanges are what IPv4 pools are chosen from unless told otherwise: 4352
// networks of 254 addresses, away from what home routers, clouds, Kubernetes
// and the first of Docker's own networks use.
func DefaultRanges() []Range {
	return []Range{
		{netip.MustParsePrefix("172.30.0.0/16"), 24},
		{netip.MustParsePrefix("10.208.0.0/12"), 24},
	}
}

// linkLocal are the addresses that mean another host on every link.
func linkLocal() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}
}

// CheckRanges refuses ranges from which no pool can be chosen, and ranges that
// overlap: of the second nobody could say what it is for.
func CheckRanges(all []Range) error {
	for i, r := range all {
		if err := r.check(); err != nil {
			return err
		}
		for _, other := range all[:i] {
			if other.Prefix.Overlaps(r.Prefix) {
				return fmt.Errorf("%s overlaps %s", r.Prefix, other.Prefix)
			}
		}
	}
	return nil
}

func (r Range) check() error {
	if err := checkPrefix(r.Prefix); err != nil {
		return err
	}
	if r.Prefix != r.Prefix.Masked() {
		return fmt.Errorf("%s: its address has bits behind the length; want %s", r.Prefix, r.Prefix.Masked())
	}
	for _, local := range linkLocal() {
		if r.Prefix.Overlaps(local) {
			return fmt.Errorf("%s: %s is link-local, and no pool is chosen from it", r.Prefix, local)
		}
	}
	// A network is of use from a gateway and one container on.
	if most := r.Prefix.Addr().BitLen() - 2; r.Size < r.Prefix.Bits() || r.Size > most {
		return fmt.Errorf("%s: pools of length %d: want %d to %d", r.Prefix, r.Size, r.Prefix.Bits(), most)
	}
	return nil
}

// ofSize returns the ranges that are wide enough for pools of one length, with
// that length.
func ofSize(all []Range, bits int) ([]Range, error) {
	var fit []Range
	for _, r := range all {
		if r.Prefix.Bits() <= bits {
			fit = append(fit, Range{r.Prefix, bits})
		}
	}
	if fit == nil {
		return nil, fmt.Errorf("%w: no /%d fits into %s", ErrNoAddress, bits, join(prefixes(all)))
	}
	return fit, nil
}

// describe names ranges as an error needs it: /24 of 172.30.0.0/16, 10.208.0.0/12.
func describe(all []Range) string {
	var names []string
	for i, r := range all {
		name := r.Prefix.String()
		if i == 0 || all[i-1].Size != r.Size {
			name = fmt.Sprintf("/%d of %s", r.Size, name)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func prefixes(all []Range) []netip.Prefix {
	bare := make([]netip.Prefix, len(all))
	for i, r := range all {
		bare[i] = r.Prefix
	}
	return bare
}

func join(list []netip.Prefix) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
