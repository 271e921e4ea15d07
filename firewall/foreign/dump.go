package foreign

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// reader reads nftables. Rules it reads by itself: the library gives up a whole chain
// for one expression that it cannot decode, and leaves out those that it does not know.
type reader struct {
	*nftables.Conn
	raw *netlink.Conn // the socket below
}

func newReader() (*reader, error) {
	r := &reader{}
	var err error
	r.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(raw *netlink.Conn) error {
		r.raw = raw
		return nil
	}))
	return r, err
}

// ask sends a request about a table and returns the answers' attributes.
func (r *reader) ask(kind int, flags netlink.HeaderFlags, t *nftables.Table, attrs ...netlink.Attribute) ([][]byte, error) {
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	replies, err := r.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, body...),
	})
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, m := range replies {
		if len(m.Data) > nfgenmsg {
			all = append(all, m.Data[nfgenmsg:])
		}
	}
	return all, nil
}

// nfgenmsg is how long the header is that nfnetlink puts ahead of attributes.
const nfgenmsg = 4

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(s), 0)}
}

// rules are a chain's, in order. Instead of an expression that it does not understand, a
// rule has a nil.
func (r *reader) rules(t *nftables.Table, chain string) ([]*nftables.Rule, error) {
	replies, err := r.ask(unix.NFT_MSG_GETRULE, netlink.Dump, t, text(unix.NFTA_RULE_TABLE, t.Name), text(unix.NFTA_RULE_CHAIN, chain))
	if err != nil {
		return nil, err
	}
	all := make([]*nftables.Rule, 0, len(replies))
	for _, body := range replies {
		rule := &nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}}
		each(body, func(kind uint16, data []byte) {
			switch kind {
			case unix.NFTA_RULE_HANDLE:
				rule.Handle = binary.BigEndian.Uint64(data)
			case unix.NFTA_RULE_USERDATA:
				rule.UserData = data
			case unix.NFTA_RULE_EXPRESSIONS:
				each(data, func(_ uint16, one []byte) { rule.Exprs = append(rule.Exprs, expression(t.Family, one)) })
			}
		})
		all = append(all, rule)
	}
	return all, nil
}

// each goes through attributes of the kernel's. What is behind one that is cut short is
// left out.
func each(body []byte, do func(kind uint16, data []byte)) {
	ad, err := netlink.NewAttributeDecoder(body)
	for err == nil && ad.Next() {
		do(ad.Type(), ad.Bytes())
	}
}

// expression decodes one, nil if it is not understood.
func expression(f nftables.TableFamily, body []byte) expr.Any {
	var name string
	var data []byte
	each(body, func(kind uint16, value []byte) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = unix.ByteSliceToString(value)
		case unix.NFTA_EXPR_DATA:
			data = value
		}
	})
	e := blank(name)
	if e == nil || expr.Unmarshal(byte(f), data, e) != nil {
		return nil
	}
	if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
		v := new(expr.Verdict)
		if expr.Unmarshal(byte(f), data, v) != nil {
			return nil
		}
		return v
	}
	return e
}

// blank is an expression of those that decode or judge look at.
func blank(name string) expr.Any {
	switch name {
	case "meta":
		return new(expr.Meta)
	case "ct":
		return new(expr.Ct)
	case "payload":
		return new(expr.Payload)
	case "bitwise":
		return new(expr.Bitwise)
	case "cmp":
		return new(expr.Cmp)
	case "lookup":
		return new(expr.Lookup)
	case "immediate":
		return new(expr.Immediate)
	case "reject":
		return new(expr.Reject)
	case "queue":
		return new(expr.Queue)
	case "match":
		return new(expr.Match)
	case "target":
		return new(expr.Target)
	}
	return blankEffect(name)
}

// blankEffect is an expression that does something to a packet, or for it.
func blankEffect(name string) expr.Any {
	switch name {
	case "counter", "last": // last notes when, as counter does how many
		return new(expr.Counter)
	case "log":
		return new(expr.Log)
	case "notrack":
		return new(expr.Notrack)
	case "objref":
		return new(expr.Objref)
	case "dynset":
		return new(expr.Dynset)
	case "flow_offload":
		return new(expr.FlowOffload)
	}
	return nil
}

const readAttempts = 5

// settled reads until two times in a row agree. A dump that is overtaken by a change
// may lack rules and does not say so. While somebody writes all the time the last one
// has to do; the event of the last write has us look again. Without nftables there is
// nothing to be read.
func settled[T any](dump func() (T, error)) (last T, failed error) {
	var some bool
	for range readAttempts {
		now, err := dump()
		if absent(err) {
			return last, nil
		}
		if failed = err; err != nil {
			some = false
			continue
		}
		if some && reflect.DeepEqual(now, last) {
			return now, nil
		}
		last, some = now, true
	}
	return last, failed
}

// absent reports whether there is no nftables to be read: the kernel has no netlink for
// netfilter, or nobody behind it who speaks of tables (nfnetlink_rcv_msg in
// net/netfilter/nfnetlink.c), or we are kept from it.
func absent(err error) bool {
	return slices.ContainsFunc([]error{unix.EPROTONOSUPPORT, unix.EINVAL, unix.EPERM}, func(e error) bool { return errors.Is(err, e) })
}
