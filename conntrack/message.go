package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/spec"
)

// What the library has no names for (linux/netfilter/nfnetlink_conntrack.h).
const (
	statistics = 5  // IPCTNL_MSG_CT_GET_STATS
	entries    = 1  // CTA_STATS_GLOBAL_ENTRIES
	ctaFilter  = 25 // CTA_FILTER
	tupleZone  = 3  // CTA_TUPLE_ZONE
	expected   = 1  // IPS_EXPECTED
	seenReply  = 2  // IPS_SEEN_REPLY
)

// What a filter compares, which has its names only inside the kernel.
const (
	onSource     = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	onProto      = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	onSourcePort = 1 << 4 // CTA_FILTER_F_CTA_PROTO_SRC_PORT
	onTargetPort = 1 << 5 // CTA_FILTER_F_CTA_PROTO_DST_PORT
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
	family   uint8
	proto    spec.Proto
	client   netip.AddrPort // who began; ports are 0 where the protocol has none
	asked    netip.AddrPort // what the client sends to
	server   netip.AddrPort // who answers; not who is asked if that is translated
	shown    netip.AddrPort // whom the server sees; not the client if that is translated
	answered bool           // somebody did
	expected bool           // it belongs to another connection, whose fate it shares
	tuple    []byte         // the original direction as the kernel wrote it
	id       []byte         // tells it from a later entry of the same tuple
	zoned    bool           // it is not in the default zone
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

// count is how many entries there are, of both families; very many if the kernel does not
// say.
func (t *Table) count() int {
	n := math.MaxInt
	_ = t.request(statistics, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(answer []byte) {
		for kind, value := range attributesOf(answer[nl.SizeofNfgenmsg:]) {
			if kind == entries && len(value) == 4 {
				n = int(binary.BigEndian.Uint32(value))
			}
		}
	})
	return n
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
	if err := failpoint.Step("conntrack", "delete"); err != nil {
		return err
	}
	err := t.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, family, attrs, ignore)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// hasSource reports whether either who began or who answers is one of those.
func (e entry) hasSource(those func(netip.Addr) bool) bool {
	return those(e.client.Addr()) || those(e.server.Addr())
}

// leads reports whether the entry leads to the address of one of those whoever asked for
// another.
func (e entry) leads(those func(netip.Addr) bool) bool {
	return e.asked.Addr() != e.server.Addr() && those(e.server.Addr())
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
	tuple := newTuple(s)
	addAddresses(tuple, addr, netip.Addr{})
	return filterBy(s, tuple, onSource)
}

// byProto is a filter on the protocol, in the default zone.
func byProto(proto spec.Proto) []nl.NetlinkRequestData { return byPorts(proto, 0, 0, onProto) }

// byTarget is a filter on the port that is asked for, in the default zone.
func byTarget(proto spec.Proto, port uint16) []nl.NetlinkRequestData {
	return byPorts(proto, 0, port, onProto|onTargetPort)
}

// byClient is a filter on the port of who began, in the default zone.
func byClient(proto spec.Proto, port uint16) []nl.NetlinkRequestData {
	return byPorts(proto, port, 0, onProto|onSourcePort)
}

func byPorts(proto spec.Proto, source, target uint16, compared uint32) []nl.NetlinkRequestData {
	tuple := newTuple(original)
	addPorts(tuple, proto, source, target)
	return filterBy(original, tuple, compared)
}

func filterBy(s side, tuple *nl.RtAttr, compared uint32) []nl.NetlinkRequestData {
	flags := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	flags.AddRtAttr(int(s), nl.Uint32Attr(compared))
	return []nl.NetlinkRequestData{tuple, flags, inZone(0)}
}

// attributes are what makes the entry in a zone, unless packets prolong it for so long.
func (e entry) attributes(zone uint16, life time.Duration) []nl.NetlinkRequestData {
	there, back := newTuple(original), newTuple(reply)
	addAddresses(there, e.client.Addr(), e.asked.Addr())
	addPorts(there, e.proto, e.client.Port(), e.asked.Port())
	shown := e.shown
	if !shown.IsValid() {
		shown = e.client
	}
	addAddresses(back, e.server.Addr(), shown.Addr())
	addPorts(back, e.proto, e.server.Port(), shown.Port())
	return []nl.NetlinkRequestData{
		there, back, inZone(zone),
		nl.NewRtAttr(nl.CTA_TIMEOUT, binary.BigEndian.AppendUint32(nil, uint32(life/time.Second))),
	}
}

// newTuple is one direction of a flow, of which nothing is said yet.
func newTuple(s side) *nl.RtAttr { return nl.NewRtAttr(unix.NLA_F_NESTED|int(s), nil) }

// addAddresses leaves out a target that is the zero Addr.
func addAddresses(tuple *nl.RtAttr, source, target netip.Addr) {
	addresses := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	from, to := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if source.Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	addresses.AddRtAttr(from, source.AsSlice())
	if target.IsValid() {
		addresses.AddRtAttr(to, target.AsSlice())
	}
}

func addPorts(tuple *nl.RtAttr, proto spec.Proto, source, target uint16) {
	ports := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{byte(proto)})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(source))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(target))
}

func inZone(zone uint16) nl.NetlinkRequestData {
	return nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(zone))
}

func parse(answer []byte) entry {
	e := entry{family: answer[0]}
	for kind, value := range attributesOf(answer[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = value
			e.client, e.asked = e.parseTuple(value)
		case nl.CTA_TUPLE_REPLY:
			e.server, e.shown = e.parseTuple(value)
		case nl.CTA_STATUS:
			if len(value) == 4 {
				status := binary.BigEndian.Uint32(value)
				e.answered, e.expected = status&seenReply != 0, status&expected != 0
			}
		case nl.CTA_ZONE:
			e.zoned = true
		case nl.CTA_ID:
			e.id = value
		}
	}
	return e
}

// parseTuple reads one direction. Its protocol is that of both.
func (e *entry) parseTuple(tuple []byte) (source, target netip.AddrPort) {
	var addresses [2]netip.Addr
	var ports [2]uint16
	for kind, value := range attributesOf(tuple) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			for kind, addr := range attributesOf(value) {
				if kind >= nl.CTA_IP_V4_SRC && kind <= nl.CTA_IP_V6_DST {
					addresses[(kind-nl.CTA_IP_V4_SRC)%2], _ = netip.AddrFromSlice(addr)
				}
			}
		case nl.CTA_TUPLE_PROTO:
			for kind, number := range attributesOf(value) {
				switch {
				case kind == nl.CTA_PROTO_NUM && len(number) == 1:
					e.proto = spec.Proto(number[0])
				case (kind == nl.CTA_PROTO_SRC_PORT || kind == nl.CTA_PROTO_DST_PORT) && len(number) == 2:
					ports[kind-nl.CTA_PROTO_SRC_PORT] = binary.BigEndian.Uint16(number)
				}
			}
		case tupleZone:
			e.zoned = true
		}
	}
	return netip.AddrPortFrom(addresses[0], ports[0]), netip.AddrPortFrom(addresses[1], ports[1])
}

// attributesOf yields type and value of each netlink attribute. The library's parser
// makes a slice for every nest: 140 MB of garbage to read a table of 200 000 entries.
func attributesOf(b []byte) iter.Seq2[uint16, []byte] {
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
