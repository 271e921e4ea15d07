package foreign

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The bits of ct state and ct status that we judge by (enum nft_ct_state_bits and
// enum ip_conntrack_status of the kernel's uapi).
const (
	stateEstablished = 1 << 1
	stateNew         = 1 << 3
	statusDNAT       = 1 << 5
)

// packet is what we know of a packet that a chain may judge. What is zero is not
// known, but for status.
type packet struct {
	bridge   string // of ours, e.g. dbr3f2a9c0d11ee
	in, out  string // e.g. eth0, or the bridge, or a port of it
	family   int    // 4 or 6
	state    uint32
	status   uint32
	from, to netip.Addr     // of a container
	indexes  map[string]int // of interfaces
}

// A judge says what a table of others does with a packet, as far as can be told. It
// reads what it needs and remembers it.
//
// It is careful both ways. Of a rule with a condition that it does not know (a port,
// another's address, a limit), it takes a drop for one that does not concern the
// packet, since it drops some others; and an accept for one that does if the rule
// names our bridge or an address behind it, since whoever wrote it has decided what of
// ours may pass. Sets are looked up as they are at the moment.
type judge struct {
	conn     *reader
	table    *nftables.Table
	rules    map[string][]*nftables.Rule
	elements map[setKey]element
	asked    map[question]map[string]bool // of the way that is judged, and with what it was compared
	packet   int                          // which one of the way
	err      error                        // of the first reading that failed; nothing is told then
}

// setKey is what a set is asked for.
type setKey struct{ set, key string }

func newJudge(conn *reader, t *nftables.Table) *judge {
	return &judge{conn: conn, table: t, rules: map[string][]*nftables.Rule{}, elements: map[setKey]element{}}
}

// fate is what a chain does with a packet.
type fate int

const (
	undecided fate = iota
	accepted
	dropped
)

// deepest bounds how far jumps are followed (NFT_JUMP_STACK_SIZE of the kernel).
const deepest = 16

// base judges a packet by a chain of a hook, and says what dropped it, e.g. policy
// drop.
func (j *judge) base(p packet, c *nftables.Chain) (fate, string) {
	f, cause := j.chain(p, c.Name, deepest)
	if f == undecided && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return dropped, "policy drop"
	}
	if f == dropped && cause.Chain.Name != c.Name {
		return f, fmt.Sprintf("it leads to chain %s, whose rule with handle %d drops", cause.Chain.Name, cause.Handle)
	}
	if f == dropped {
		return f, fmt.Sprintf("the rule with handle %d drops", cause.Handle)
	}
	return f, ""
}

// ownChains is how the names of the chains begin that firewall/iptables makes, in tables
// that are everybody's with iptables-nft.
const ownChains = "DRAWBRIDGE-"

func (j *judge) chain(p packet, name string, depth int) (fate, *nftables.Rule) {
	if depth == 0 {
		return undecided, nil
	}
	for _, r := range j.read(name) {
		m := j.match(p, r)
		if m.applies == no || m.applies == maybe && !m.named {
			continue
		}
		switch v := m.verdict; v.Kind {
		case expr.VerdictAccept, expr.VerdictQueue: // what a program decides, nobody knows
			return accepted, r
		case expr.VerdictDrop:
			if m.applies == yes {
				return dropped, r
			}
		case expr.VerdictReturn:
			if m.applies == yes {
				return undecided, nil
			}
		case expr.VerdictJump, expr.VerdictGoto:
			if strings.HasPrefix(v.Chain, ownChains) {
				continue
			}
			f, by := j.chain(p, v.Chain, depth-1)
			if f == accepted || m.applies == yes && (f == dropped || v.Kind == expr.VerdictGoto) {
				return f, by
			}
		}
	}
	return undecided, nil
}

// answer is whether a rule applies to a packet.
type answer int

const (
	yes answer = iota
	no
	maybe
)

// matching is a rule as a packet meets it.
type matching struct {
	applies answer
	named   bool // a condition names our bridge or an address behind it
	verdict expr.Verdict
	loaded  [registers]loaded
}

// registers is how many a rule has by number (NFT_REG32_15 of the kernel's uapi is the
// last).
const registers = 24

// loaded is what a register holds.
type loaded struct {
	value   []byte // nil if it is not known
	telling bool   // it is our bridge or an address behind it
	from    question
}

// match goes through a rule up to its verdict.
func (j *judge) match(p packet, r *nftables.Rule) matching {
	m := matching{verdict: expr.Verdict{Kind: expr.VerdictContinue}}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				m.load(e.Register, loaded{p.meta(e.Key), p.tells(e.Key), question{packet: j.packet, field: field{meta: e.Key}}})
			}
		case *expr.Ct:
			if !e.SourceRegister {
				m.load(e.Register, loaded{value: p.ct(e.Key)})
			}
		case *expr.Payload:
			if e.OperationType == expr.PayloadLoad {
				from := question{packet: j.packet, field: field{payload: true, offset: e.Offset, length: e.Len}}
				m.load(e.DestRegister, loaded{p.payload(e), e.Base == expr.PayloadBaseNetworkHeader, from})
			}
		case *expr.Bitwise:
			m.load(e.DestRegister, m.at(e.SourceRegister).masked(e))
		case *expr.Cmp:
			j.compare(&m, e)
		case *expr.Lookup:
			j.lookUp(&m, e)
		case *expr.Verdict:
			m.verdict = *e
		case *expr.Reject:
			m.verdict.Kind = expr.VerdictDrop
		case *expr.Queue:
			m.verdict.Kind = expr.VerdictQueue
		case *expr.Target:
			if e.Name == "REJECT" {
				m.verdict.Kind = expr.VerdictDrop
			}
		default:
			if conditional(e) {
				m.applies = max(m.applies, maybe)
			}
		}
		if m.applies == no {
			return m
		}
	}
	return m
}

// conditional reports whether an expression may end a rule for some packets, as one
// does of which we know nothing.
func conditional(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Counter, *expr.Log, *expr.Immediate, *expr.Notrack, *expr.FlowOffload:
		return false
	case *expr.Match:
		_, comment := e.Info.(*xt.Comment)
		return !comment
	case *expr.Dynset:
		return len(e.Exprs) > 0 // e.g. limit rate over 100/second, for each address
	case *expr.Objref:
		switch e.Type {
		case unix.NFT_OBJECT_COUNTER, unix.NFT_OBJECT_CT_HELPER, unix.NFT_OBJECT_CT_TIMEOUT, unix.NFT_OBJECT_CT_EXPECT, unix.NFT_OBJECT_SECMARK, unix.NFT_OBJECT_TUNNEL:
			return false
		}
	}
	return true
}

func (m *matching) load(register uint32, l loaded) { *m.at(register) = l }

// masked is what a bitwise expression makes of it; of what was masked before nobody knows.
func (l loaded) masked(e *expr.Bitwise) loaded {
	if l.from.mask != "" {
		return loaded{}
	}
	l.from.mask, l.from.xor = string(e.Mask), string(e.Xor)
	l.value = masked(l.value, e.Mask, e.Xor)
	return l
}

// at is a register; one that there can not be is 0, that of the verdict.
func (m *matching) at(register uint32) *loaded {
	if register >= registers {
		register = unix.NFT_REG_VERDICT
	}
	return &m.loaded[register]
}

// settle takes in a condition on a register; positive is one that is not negated. The
// value is forgotten: what loads it anew may be something that we do not understand.
func (m *matching) settle(register uint32, a answer, positive bool) {
	switch {
	case a == no || m.applies == no:
		m.applies = no
	case a == maybe:
		m.applies = maybe
	case m.at(register).telling && positive:
		m.named = true
	}
	*m.at(register) = loaded{}
}

// compare compares as much as the rule gives, so dbr without a zero byte behind it is
// every name that begins so.
func (j *judge) compare(m *matching, e *expr.Cmp) {
	value := m.at(e.Register).value
	if m.at(e.Register).telling {
		q := m.at(e.Register).from
		q.length = len(e.Data)
		j.note(q, e.Data)
	}
	if len(value) < len(e.Data) || len(e.Data) == 0 || e.Op != expr.CmpOpEq && e.Op != expr.CmpOpNeq {
		m.settle(e.Register, maybe, false)
		return
	}
	positive := e.Op == expr.CmpOpEq
	m.settle(e.Register, truth(bytes.Equal(value[:len(e.Data)], e.Data) == positive), positive)
}

func truth(b bool) answer {
	if b {
		return yes
	}
	return no
}

// lookUp asks a set, or takes the verdict out of a map.
func (j *judge) lookUp(m *matching, e *expr.Lookup) {
	from := *m.at(e.SourceRegister)
	if from.telling {
		q := from.from
		q.set = e.SetName
		j.note(q, nil)
	}
	found := j.element(e.SetName, from.value)
	switch {
	case !found.known:
		m.settle(e.SourceRegister, maybe, false)
	case !e.IsDestRegSet:
		m.settle(e.SourceRegister, truth(found.there != e.Invert), !e.Invert)
	case e.DestRegister != unix.NFT_REG_VERDICT || !found.there:
		m.settle(e.SourceRegister, truth(found.there), true)
		*m.at(e.DestRegister) = loaded{}
	default:
		m.settle(e.SourceRegister, yes, true)
		m.verdict = found.verdict
	}
}

// tells reports whether a key is an interface of ours: our bridge, or a port of it.
func (p packet) tells(key expr.MetaKey) bool {
	switch key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyIIF:
		return p.in == p.bridge || p.in == port
	case expr.MetaKeyOIFNAME, expr.MetaKeyOIF:
		return p.out == p.bridge || p.out == port
	}
	return key == expr.MetaKeyBRIIIFNAME || key == expr.MetaKeyBRIOIFNAME
}

func (p packet) meta(key expr.MetaKey) []byte {
	switch key {
	case expr.MetaKeyIIFNAME:
		return ifname(p.in)
	case expr.MetaKeyOIFNAME:
		return ifname(p.out)
	case expr.MetaKeyIIF:
		return p.index(p.in)
	case expr.MetaKeyOIF:
		return p.index(p.out)
	case expr.MetaKeyBRIIIFNAME, expr.MetaKeyBRIOIFNAME:
		return ifname(p.bridge)
	case expr.MetaKeyNFPROTO:
		return []byte{map[int]byte{4: unix.NFPROTO_IPV4, 6: unix.NFPROTO_IPV6}[p.family]}
	case expr.MetaKeyPROTOCOL:
		return binary.BigEndian.AppendUint16(nil, map[int]uint16{4: unix.ETH_P_IP, 6: unix.ETH_P_IPV6}[p.family])
	}
	return nil
}

// ifname is a name as the kernel loads it: 16 bytes.
func ifname(name string) []byte {
	if name == "" {
		return nil
	}
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func (p packet) index(name string) []byte {
	index, ok := p.indexes[name]
	if !ok {
		return nil
	}
	return binary.NativeEndian.AppendUint32(nil, uint32(index))
}

func (p packet) ct(key expr.CtKey) []byte {
	switch key {
	case expr.CtKeySTATE:
		return binary.NativeEndian.AppendUint32(nil, p.state)
	case expr.CtKeySTATUS:
		return binary.NativeEndian.AppendUint32(nil, p.status)
	}
	return nil
}

// payload is a part of a packet's addresses.
func (p packet) payload(e *expr.Payload) []byte {
	at := map[int]uint32{4: 12, 6: 8}[p.family] // of the source in the header
	addrs := slices.Concat(bytesOf(p.from, p.family), bytesOf(p.to, p.family))
	half := uint32(len(addrs) / 2)
	begin, end := e.Offset-at, e.Offset-at+e.Len
	switch {
	case e.Base != expr.PayloadBaseNetworkHeader || e.Offset < at || e.Len == 0 || end > 2*half:
		return nil
	case end <= half && p.from.IsValid() || begin >= half && p.to.IsValid():
		return addrs[begin:end]
	}
	return nil
}

// bytesOf is as long as the family's addresses, also for one that is not known.
func bytesOf(a netip.Addr, family int) []byte {
	if a.IsValid() {
		return a.AsSlice()
	}
	return make([]byte, map[int]int{4: 4, 6: 16}[family])
}

// masked is what a bitwise expression makes of a value, nil if it does anything else
// than to mask.
func masked(value, mask, xor []byte) []byte {
	if value == nil || len(mask) != len(value) || len(xor) != len(value) {
		return nil
	}
	out := make([]byte, len(value))
	for i := range value {
		out[i] = value[i]&mask[i] ^ xor[i]
	}
	return out
}

func (j *judge) read(chain string) []*nftables.Rule {
	rules, ok := j.rules[chain]
	if !ok && j.err == nil {
		rules, j.err = j.conn.rules(j.table, chain)
		j.rules[chain] = rules
	}
	return rules
}

func (j *judge) element(set string, key []byte) element {
	if key == nil {
		return element{}
	}
	e, ok := j.elements[setKey{set, string(key)}]
	if !ok {
		e = j.conn.element(j.table, set, key)
		j.elements[setKey{set, string(key)}] = e
	}
	return e
}
