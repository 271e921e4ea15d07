package nftables

import (
	"fmt"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	name         string // of the header, e.g. ip6
	proto        string // e.g. ipv6
	suffix       string // of sets and chains, e.g. 6
	number       byte   // NFPROTO_IPV6
	icmpName     string // e.g. ipv6-icmp
	icmp         byte   // IPPROTO_ICMPV6
	redirectText string // e.g. icmpv6 type nd-redirect
	redirectType byte   // ICMP_REDIRECT in linux/icmp.h, NDISC_REDIRECT in net/ndisc.h
	addr         kind
	saddr, daddr uint32 // offsets in the header
}

func families() []family {
	return []family{
		{"ip", "ipv4", "4", unix.NFPROTO_IPV4, "icmp", unix.IPPROTO_ICMP, "icmp type redirect", 5, addr4, 12, 16},
		{"ip6", "ipv6", "6", unix.NFPROTO_IPV6, "ipv6-icmp", unix.IPPROTO_ICMPV6, "icmpv6 type nd-redirect", 137, addr6, 8, 24},
	}
}

func (f family) set(name string) string { return name + f.suffix }

// Bits of ct state (NF_STATE_BIT in linux/netfilter/nf_conntrack_common.h) and of
// ct status (IPS_DST_NAT there).
const (
	invalid     = 1
	established = 2
	related     = 4
	statusDNAT  = 1 << 5
)

// Offsets of the addresses in an IPv4 header.
const (
	saddr = 12
	daddr = 16
)

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// register is the kernel's number of the nth 32 bits of its registers: those that
// begin 128 bits go by their old names (nft_dump_register in nf_tables_api.c).
func register(n uint32) uint32 {
	if n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// name is an interface's name as the kernel compares it, filled up with NULs.
func name(ifname string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, ifname)
	return b
}

func (f family) only() []expr.Any {
	return []expr.Any{
		// [ meta load nfproto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		// [ cmp eq reg 1 NUMBER ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.number}},
	}
}

func isIPv4() []expr.Any { return families()[0].only() }
func isIPv6() []expr.Any { return families()[1].only() }

func notFrom(ifname string) []expr.Any { return unequal(expr.MetaKeyIIFNAME, ifname) }
func notTo(ifname string) []expr.Any   { return unequal(expr.MetaKeyOIFNAME, ifname) }

func unequal(key expr.MetaKey, ifname string) []expr.Any {
	return []expr.Any{
		// [ meta load KEY => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ cmp neq reg 1 IFNAME ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name(ifname)},
	}
}

func from(set string) []expr.Any       { return member(expr.MetaKeyIIFNAME, set, false) }
func to(set string) []expr.Any         { return member(expr.MetaKeyOIFNAME, set, false) }
func notFromSet(set string) []expr.Any { return member(expr.MetaKeyIIFNAME, set, true) }
func notToSet(set string) []expr.Any   { return member(expr.MetaKeyOIFNAME, set, true) }

func member(key expr.MetaKey, set string, not bool) []expr.Any {
	return []expr.Any{
		// [ meta load KEY => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ lookup reg 1 set SET ]
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: not},
	}
}

// fromTo matches iifname . oifname @set.
func fromTo(set string) []expr.Any {
	return []expr.Any{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		// [ meta load oifname => reg 2 ]
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 2},
		// [ lookup reg 1 set SET ]
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}
}

// What nft calls setMark and unmarked.
func setMarkText() string  { return fmt.Sprintf("meta mark set meta mark | %#x", handed) }
func unmarkedText() string { return fmt.Sprintf("meta mark & %#x == 0", handed) }

// setMark sets our bit and keeps the others.
func setMark() []expr.Any {
	return []expr.Any{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & ~BIT ) ^ BIT ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(^uint32(handed)), Xor: word(handed)},
		// [ meta set mark with reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// unmarked matches a packet without our bit.
func unmarked() []expr.Any {
	return []expr.Any{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & BIT ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(handed), Xor: word(0)},
		// [ cmp eq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: word(0)},
	}
}

// word is a number in a register.
func word(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// notARP matches meta protocol != arp.
func notARP() []expr.Any {
	return []expr.Any{
		// [ meta load protocol => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		// [ cmp neq reg 1 0x00000608 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_ARP)},
	}
}

func (f family) isICMP() []expr.Any {
	return []expr.Any{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp eq reg 1 NUMBER ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.icmp}},
	}
}

// redirect matches a router's word for a better way.
func (f family) redirect() []expr.Any {
	return join(f.only(), f.isICMP(), []expr.Any{
		// [ payload load 1b @ transport header + 0 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		// [ cmp eq reg 1 TYPE ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.redirectType}},
	})
}

// loopback matches an IPv4 address of 127.0.0.0/8, at one of the two offsets.
func loopback(offset uint32) []expr.Any {
	return join(isIPv4(), []expr.Any{
		// [ payload load 1b @ network header + OFFSET => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		// [ cmp eq reg 1 0x0000007f ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
	})
}

// localhost6 matches ip6 daddr ::1.
func localhost6() []expr.Any {
	return []expr.Any{
		// [ payload load 16b @ network header + 24 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		// [ cmp eq reg 1 0x00000000 0x00000000 0x00000000 0x01000000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append(make([]byte, 15), 1)},
	}
}

// linkLocal6 matches ip6 saddr fe80::/10.
func linkLocal6() []expr.Any {
	return []expr.Any{
		// [ payload load 16b @ network header + 8 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
		// [ bitwise reg 1 = ( reg 1 & 0x0000c0ff 0x00000000 0x00000000 0x00000000 ) ^ 0 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: append([]byte{0xff, 0xc0}, make([]byte, 14)...), Xor: make([]byte, 16)},
		// [ cmp eq reg 1 0x000080fe 0x00000000 0x00000000 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte{0xfe, 0x80}, make([]byte, 14)...)},
	}
}

// forThisHost matches fib daddr type local.
func forThisHost() []expr.Any {
	return []expr.Any{
		// [ fib daddr type => reg 1 ]
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		// [ cmp eq reg 1 0x00000002 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: word(unix.RTN_LOCAL)},
	}
}

func state(bits uint32) []expr.Any { return anyOf(expr.CtKeySTATE, bits) }
func translated() []expr.Any       { return anyOf(expr.CtKeySTATUS, statusDNAT) }

// anyOf matches a connection of whose state or status one of the bits is set.
func anyOf(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		// [ ct load KEY => reg 1 ]
		&expr.Ct{Key: key, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & BITS ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(bits), Xor: word(0)},
		// [ cmp neq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any {
	// [ immediate reg 0 VERDICT ]
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

func jumpTo(chain string) []expr.Any {
	// [ immediate reg 0 jump -> CHAIN ]
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// drop counts what it drops, so that one can see which rule it was.
func drop() []expr.Any {
	// [ counter pkts 0 bytes 0 ]
	return append([]expr.Any{&expr.Counter{}}, verdict(expr.VerdictDrop)...)
}

// load puts an address of the packet into the first registers.
func (f family) load(offset uint32) expr.Any {
	// [ payload load LENb @ network header + OFFSET => reg 1 ]
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.addr.datatype().Bytes}
}

// words is how many 32-bit registers an address takes.
func (f family) words() uint32 { return f.addr.datatype().Bytes / 4 }

// source matches saddr @set.
func (f family) source(set string) []expr.Any {
	// [ lookup reg 1 set SET ]
	return []expr.Any{f.load(f.saddr), &expr.Lookup{SourceRegister: 1, SetName: f.set(set)}}
}

// sourceTo matches saddr . oifname @set.
func (f family) sourceTo(set string) []expr.Any {
	return []expr.Any{
		f.load(f.saddr),
		// [ meta load oifname => reg 9 (IPv4) or 2 (IPv6) ]
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register(f.words())},
		// [ lookup reg 1 set SET ]
		&expr.Lookup{SourceRegister: 1, SetName: f.set(set)},
	}
}

// notResident matches KEY . address != @residents: KEY is an interface, the address
// stands at the offset.
func (f family) notResident(key expr.MetaKey, offset uint32) []expr.Any {
	return []expr.Any{
		// [ meta load KEY => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ payload load LENb @ network header + OFFSET => reg 2 ]
		&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.addr.datatype().Bytes},
		// [ lookup reg 1 set SET 0x1 ]
		&expr.Lookup{SourceRegister: 1, SetName: f.set(setResidents), Invert: true},
	}
}

// keepSource is snat to saddr: it settles that the source is not translated.
func (f family) keepSource() []expr.Any {
	return []expr.Any{
		f.load(f.saddr),
		// [ nat snat FAMILY addr_min reg 1 ]
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.number), RegAddrMin: 1, RegAddrMax: 1},
	}
}

// destination loads meta l4proto . th dport, behind the address if that is asked for.
func (f family) destination(withAddr bool) []expr.Any {
	var exprs []expr.Any
	next := uint32(0)
	if withAddr {
		exprs, next = append(exprs, f.load(f.daddr)), f.words()
	}
	return append(exprs,
		// [ meta load l4proto => reg NEXT ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(next)},
		// [ payload load 2b @ transport header + 2 => reg NEXT+1 ]
		&expr.Payload{DestRegister: register(next + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// opened matches what destination has loaded.
func (f family) opened() []expr.Any {
	// [ lookup reg 1 set SET ]
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: f.set(setOpen)}}
}

// chooseSource is snat to what the map says of saddr.
func (f family) chooseSource() []expr.Any {
	return []expr.Any{
		f.load(f.saddr),
		// [ lookup reg 1 set SET dreg 1 ]
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: f.set(mapSource)},
		// [ nat snat FAMILY addr_min reg 1 ]
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.number), RegAddrMin: 1, RegAddrMax: 1},
	}
}

// translate is dnat to what a map says: an address, and a port if withPort;
// without one the packet keeps its own.
func (f family) translate(set string, withPort bool) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: 1, RegAddrMax: 1}
	if withPort {
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = register(f.words()), register(f.words()), true
	}
	return []expr.Any{
		// [ lookup reg 1 set SET dreg 1 ]
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: f.set(set)},
		// [ nat dnat FAMILY addr_min reg 1 proto_min reg 9 (IPv4) or 2 (IPv6) ]
		nat,
	}
}
