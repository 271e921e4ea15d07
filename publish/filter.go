package publish

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
)

// Where a filter finds what it looks at (include/uapi/linux/filter.h of the kernel): what
// it is shown of a packet begins behind the IP header, which lies at offsets below zero.
const (
	etherType = 0xffff_f000 // SKF_AD_OFF + SKF_AD_PROTOCOL
	cameBy    = 0xffff_f008 // SKF_AD_OFF + SKF_AD_IFINDEX
	header    = 0xfff0_0000 // SKF_NET_OFF
	to4       = header + 16 // RFC 791, section 3.1
	from6     = header + 8  // RFC 8200, section 3
	to6       = header + 24 // four words
)

// What is compared with what is found there.
const (
	multicast = 0xe000_0000 // 224.0.0.0; above are broadcasts
	loopback4 = 0x7f00_0000 // 127.0.0.0/8
	mask8     = 0xff00_0000
	lo        = 1           // LOOPBACK_IFINDEX: that of each network namespace's own
	linkLocal = 0xfe80_0000 // fe80::/10
	linkMask  = 0xffc0_0000
	groups    = 0xff // ff00::/8
)

// What a filter answers: how much of a packet is let in.
const (
	drop = 0
	pass = 1<<32 - 1
)

// filter has the kernel drop all that reaches the socket but what is served, from the
// next packet on. Connections that a listener begins have the filter that it has then.
// If that fails, whom the socket serves is not known until it succeeds.
func (s *socket) filter(r proxy.Route) error {
	code := program(r)
	s.route = proxy.Route{}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return fmt.Errorf("setsockopt SO_ATTACH_FILTER: %w", err)
	}
	s.route = r
	return nil
}

// program is classic BPF that judges a packet by its IP header. On a socket of both
// families packets of IPv4 are such, too, and not mapped to IPv6 yet.
func program(r proxy.Route) []unix.SockFilter {
	if !serves(r) {
		return []unix.SockFilter{verdict(drop)}
	}
	six := judge6(r.V6)
	code := []unix.SockFilter{
		load(unix.BPF_W, etherType),
		jump(unix.BPF_JEQ, unix.ETH_P_IPV6, 0, len(six)),
	}
	return append(append(code, six...), judge4(r.V4)...)
}

// judge4 judges packets of IPv4. Whom they were sent to is an address of the host's; if
// it stands for many, nobody asked this port. One for 127.0.0.0/8 is the host's own, which
// the kernel sees to only where route_localnet is off. It always does so for ::1.
func judge4(p plan.Proxy) []unix.SockFilter {
	if !p.To.IsValid() || !p.All {
		return []unix.SockFilter{verdict(drop)}
	}
	return []unix.SockFilter{
		load(unix.BPF_W, to4),
		jump(unix.BPF_JGE, multicast, 5, 0),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask8},
		jump(unix.BPF_JEQ, loopback4, 0, 2),
		load(unix.BPF_W, cameBy),
		jump(unix.BPF_JEQ, lo, 0, 1),
		verdict(pass),
		verdict(drop),
	}
}

// judge6 judges packets of IPv6.
func judge6(p plan.Proxy) []unix.SockFilter {
	switch {
	case !p.To.IsValid():
		return []unix.SockFilter{verdict(drop)}
	case p.All:
		return []unix.SockFilter{
			load(unix.BPF_B, to6),
			jump(unix.BPF_JEQ, groups, 1, 0),
			verdict(pass),
			verdict(drop),
		}
	}
	return []unix.SockFilter{
		load(unix.BPF_B, to6),
		jump(unix.BPF_JEQ, groups, 12, 0),
		load(unix.BPF_W, from6), // fe80::/10
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: linkMask},
		jump(unix.BPF_JEQ, linkLocal, 8, 0),
		load(unix.BPF_W, to6), // ::1
		jump(unix.BPF_JEQ, 0, 0, 7),
		load(unix.BPF_W, to6+4),
		jump(unix.BPF_JEQ, 0, 0, 5),
		load(unix.BPF_W, to6+8),
		jump(unix.BPF_JEQ, 0, 0, 3),
		load(unix.BPF_W, to6+12),
		jump(unix.BPF_JEQ, 1, 0, 1),
		verdict(pass),
		verdict(drop),
	}
}

func load(size uint16, offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_ABS | size, K: offset}
}

// jump skips so many instructions if what was loaded compares so, and so many if not.
func jump(compare uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | compare, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func verdict(bytes uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: bytes}
}
