package main

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/drawbridge-net/drawbridge/ipam"
)

// ranges are the values of the flag --pool, e.g. 10.64.0.0/12=24.
type ranges []ipam.Range

// Type is what the help calls a value.
func (*ranges) Type() string { return "BASE=SIZE" }

func (r *ranges) String() string {
	var all []string
	for _, one := range *r {
		all = append(all, one.Prefix.String()+"="+strconv.Itoa(one.Size))
	}
	return strings.Join(all, ", ")
}

// Set adds a range.
func (r *ranges) Set(text string) error {
	base, size, _ := strings.Cut(text, "=")
	prefix, baseErr := netip.ParsePrefix(base)
	bits, sizeErr := strconv.Atoi(size)
	if baseErr != nil || sizeErr != nil {
		return errors.New("want a prefix and the length of the subnets in it, e.g. 10.64.0.0/12=24 or fd00:1234::/48=64")
	}
	all := append(*r, ipam.Range{Prefix: prefix, Size: bits})
	if err := ipam.CheckRanges(all); err != nil {
		return err
	}
	*r = all
	return nil
}

// defaultRanges is what the help says of them.
func defaultRanges() string {
	four := ranges(ipam.DefaultRanges())
	return four.String() + ", and a /48 drawn for this host"
}
