package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the library has no names for (linux/netfilter/nfnetlink_conntrack.h).
const (
	statistics = 5  // IPCTNL_MSG_CT_GET_STATS
	ctaFilter  = 25 // CTA_FILTER
	tupleZone  = 3  // CTA_TUPLE_ZONE
	onSource   = 1  // CTA_FILTER_F_CTA_IP_SRC, which has its name only inside the kernel
)

// side is one of the two directions of an entry. Its number is that of the tuple
// in an entry and that of the flags in a filter.
type side int

const (
	original side = nl.CTA_TUPLE_ORIG
	reply    side = nl.CTA_TUPLE_REPLY
)

// entry is what a dump tells of one entry, as far as we ask.
type entry struct {
	family  uint8
	sources [2]netip.Addr // of the original direction and of the reply
	target  netip.Addr    // of the original direction
	tuple   []byte        // the original direction as the kernel wrote it
	id      []byte        // tells it from a later entry of the same tuple
	zoned   bool          // it is not in the default zone
}

func family(addr netip.Addr) uint8 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// request sends one message and calls yield for each answer, which is good only until
// yield returns.
func (t *Table) request(kind, flags int, family uint8, attrs []nl.NetlinkRequestData, yield func([]byte)) error {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags)
	r.Sockets = t.sockets
	r.Data = append([]nl.NetlinkRequestData{&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0}}, attrs...)
	return r.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(answer []byte) bool {
		yield(answer)
		return true
	})
}

func ignore([]byte) {}

// usable reports an error if the kernel does not let us see its entries.
func (t *Table) usable() error {
	return t.request(statistics, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, ignore)
}

// create makes an entry.
func (t *Table) create(family uint8, attrs []nl.NetlinkRequestData) error {
	return t.request(nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_ACK|unix.NLM_F_CREATE, family, attrs, ignore)
}

// dump yields the entries that a filter lets through; without one, all of the family,
// or of both for AF_UNSPEC.
func (t *Table) dump(family uint8, filter []nl.NetlinkRequestData, yield func(entry)) error {
	return t.request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family, filter, func(answer []byte) { yield(parse(answer)) })
}

// erase deletes the one entry that a tuple names, or all that a filter lets through;
// that none is left is fine. A kernel that cannot delete by a filter (before 6.11)
// passes over it, takes its tuple for the name of an entry and refuses that, since
// it has no ports: EINVAL.
func (t *Table) erase(family uint8, attrs []nl.NetlinkRequestData) error {
	err := t.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, family, attrs, ignore)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// hasSource reports whether one of the entry's sources is one of those.
func (e entry) hasSource(those func(netip.Addr) bool) bool {
	return slices.ContainsFunc(e.sources[:], those)
}

// leads reports whether the entry translates its target to one of those.
func (e entry) leads(those func(netip.Addr) bool) bool {
	server := e.sources[reply-original]
	return e.target != server && those(server)
}

// purge reads what a filter lets through and deletes one by one the chosen entries of
// the default zone.
func (t *Table) purge(family uint8, filter []nl.NetlinkRequestData, chosen func(entry) bool) error {
	var found []entry
	err := t.dump(family, filter, func(e entry) {
		if !e.zoned && chosen(e) {
			e.tuple, e.id = bytes.Clone(e.tuple), bytes.Clone(e.id)
			found = append(found, e)
		}
	})
	for _, e := range found {
		if err := t.erase(e.family, e.name()); err != nil {
			return err
		}
	}
	return err
}

func (e entry) name() []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, e.tuple), nl.NewRtAttr(nl.CTA_ID, e.id)}
}

// bySource is a filter on the source of one side, in the default zone.
func bySource(s side, addr netip.Addr) []nl.NetlinkRequestData {
	flags := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	flags.AddRtAttr(int(s), nl.Uint32Attr(onSource))
	return []nl.NetlinkRequestData{newTuple(s, netip.AddrPortFrom(addr, 0), netip.AddrPort{}), flags, inZone(0)}
}

// udp is an entry of datagrams: source talks to target, and back is who answers.
func udp(source, target, back netip.AddrPort, zone uint16, life time.Duration) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{
		newTuple(original, source, target), newTuple(reply, back, source), inZone(zone),
		nl.NewRtAttr(nl.CTA_TIMEOUT, binary.BigEndian.AppendUint32(nil, uint32(life/time.Second))),
	}
}

// newTuple is one direction of a flow of datagrams; without a target it is the mere
// address of the source.
func newTuple(s side, source, target netip.AddrPort) *nl.RtAttr {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|int(s), nil)
	addresses := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	from, to := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if source.Addr().Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	addresses.AddRtAttr(from, source.Addr().AsSlice())
	if !target.IsValid() {
		return tuple
	}
	addresses.AddRtAttr(to, target.Addr().AsSlice())
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(source.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(target.Port()))
	return tuple
}

func inZone(zone uint16) nl.NetlinkRequestData {
	return nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(zone))
}

func parse(answer []byte) entry {
	e := entry{family: answer[0]}
	for kind, value := range attributes(answer[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = value
			e.parseTuple(original, value)
		case nl.CTA_TUPLE_REPLY:
			e.parseTuple(reply, value)
		case nl.CTA_ZONE:
			e.zoned = true
		case nl.CTA_ID:
			e.id = value
		}
	}
	return e
}

func (e *entry) parseTuple(s side, tuple []byte) {
	for kind, value := range attributes(tuple) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			for kind, addr := range attributes(value) {
				switch {
				case kind == nl.CTA_IP_V4_SRC || kind == nl.CTA_IP_V6_SRC:
					e.sources[s-original], _ = netip.AddrFromSlice(addr)
				case s == original:
					e.target, _ = netip.AddrFromSlice(addr)
				}
			}
		case tupleZone:
			e.zoned = true
		}
	}
}

// attributes yields type and value of each netlink attribute. The library's parser
// makes a slice for every nest: 140 MB of garbage to read a table of 200 000 entries.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.NLA_HDRLEN || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK, b[unix.NLA_HDRLEN:size]) {
				return
			}
			b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}
