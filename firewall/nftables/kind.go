package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/spec"
)

// kind is what one part of a set's key or value is.
type kind int

const (
	ifname kind = iota
	addr4
	addr6
	protocol
	service
)

func (k kind) datatype() nftables.SetDatatype {
	switch k {
	case ifname:
		return nftables.TypeIFName
	case addr4:
		return nftables.TypeIPAddr
	case addr6:
		return nftables.TypeIP6Addr
	case protocol:
		return nftables.TypeInetProto
	case service:
		return nftables.TypeInetService
	}
	panic(fmt.Sprintf("nftables: kind %d", k))
}

// width is the room that a part takes in a key or value: whole 32-bit words.
func (k kind) width() int { return int(k.datatype().Bytes+3) / 4 * 4 }

// show is a part as nft prints it; last is "" or the end of a range.
func (k kind) show(first, last string) string {
	switch k {
	case ifname:
		return strconv.Quote(strings.TrimRight(first, "\x00"))
	case addr4, addr6:
		return showAddrs(first, last)
	case protocol:
		return spec.Proto(first[0]).String()
	}
	low := binary.BigEndian.Uint16([]byte(first))
	if last == "" || last == first {
		return strconv.Itoa(int(low))
	}
	return fmt.Sprintf("%d-%d", low, binary.BigEndian.Uint16([]byte(last)))
}

func showAddrs(first, last string) string {
	low, _ := netip.AddrFromSlice([]byte(first))
	if last == "" || last == first {
		return low.String()
	}
	for bits := range low.BitLen() {
		if p := netip.PrefixFrom(low, bits); p.Masked() == p && string(lastOf(p).AsSlice()) == last {
			return p.String()
		}
	}
	high, _ := netip.AddrFromSlice([]byte(last))
	return low.String() + "-" + high.String()
}

// showAll is a concatenation as nft prints it.
func showAll(kinds []kind, first, last string) string {
	var parts []string
	for _, k := range kinds {
		n := k.width()
		if len(first) < n {
			return fmt.Sprintf("%x", first)
		}
		end := ""
		if len(last) >= n {
			end, last = last[:n], last[n:]
		}
		parts = append(parts, k.show(first[:n], end))
		first = first[n:]
	}
	return strings.Join(parts, " . ")
}

// datatype is the concatenation's type for the kernel and for nft.
func datatype(kinds []kind) nftables.SetDatatype {
	if len(kinds) == 1 {
		return kinds[0].datatype()
	}
	var types []nftables.SetDatatype
	for _, k := range kinds {
		types = append(types, k.datatype())
	}
	return nftables.MustConcatSetType(types...)
}

// The parts of keys and values as the kernel keeps them: in network order, filled
// up with zeros to whole words.

func rawAddr(a netip.Addr) string      { return string(a.AsSlice()) }
func rawName(ifname string) string     { return string(name(ifname)) }
func rawProto(p spec.Proto) string     { return string([]byte{byte(p), 0, 0, 0}) }
func rawPort(p uint16) string          { return string([]byte{byte(p >> 8), byte(p), 0, 0}) }
func lastOf(p netip.Prefix) netip.Addr { return fill(p.Masked().Addr(), p.Bits()) }

// fill sets every bit of an address behind the first bits.
func fill(a netip.Addr, bits int) netip.Addr {
	b := a.AsSlice()
	for i := bits; i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	filled, _ := netip.AddrFromSlice(b)
	return filled
}
