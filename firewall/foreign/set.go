package foreign

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// element is what a set or map has for a key.
type element struct {
	known   bool // else nobody can tell
	there   bool
	verdict expr.Verdict // of a verdict map
}

// element asks a set for one key. A set is never read as a whole: somebody's blocklist
// may have a hundred thousand elements.
func (r *reader) element(t *nftables.Table, set string, key []byte) element {
	if key == nil {
		return element{}
	}
	// Of a set of intervals the kernel gives the beginning of the one that has the key
	// (nft_rbtree_get in net/netfilter/nft_set_rbtree.c).
	found, err := r.elementBy(t, set, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_SET_ELEM_KEY, Data: value(key)})
	if errors.Is(err, unix.ENOENT) {
		// What every other key has; EINVAL of a kernel before 5.13, which knows no such thing.
		flags := netlink.Attribute{Type: unix.NFTA_SET_ELEM_FLAGS, Data: binary.BigEndian.AppendUint32(nil, catchAll)}
		found, err = r.elementBy(t, set, flags)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return element{known: true}
		}
	}
	if err != nil {
		return element{}
	}
	return found
}

// catchAll is NFT_SET_ELEM_CATCHALL of the kernel's uapi.
const catchAll = 1 << 1

func (r *reader) elementBy(t *nftables.Table, set string, by netlink.Attribute) (element, error) {
	one, err := netlink.MarshalAttributes([]netlink.Attribute{by})
	if err != nil {
		return element{}, err
	}
	list, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: one}})
	if err != nil {
		return element{}, err
	}
	replies, err := r.ask(unix.NFT_MSG_GETSETELEM, 0, t, text(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name), text(unix.NFTA_SET_ELEM_LIST_SET, set),
		netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_SET_ELEM_LIST_ELEMENTS, Data: list})
	if err != nil {
		return element{}, err
	}
	e := element{verdict: expr.Verdict{Kind: expr.VerdictContinue}}
	for _, body := range replies {
		within(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT)(func(kind uint16, data []byte) {
			switch kind {
			case unix.NFTA_VERDICT_CODE:
				e.verdict.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(data)))
			case unix.NFTA_VERDICT_CHAIN:
				e.verdict.Chain = unix.ByteSliceToString(data)
			}
		})
		e.known, e.there = true, true
	}
	return e, nil
}

// value is a key as the kernel takes it.
func value(key []byte) []byte {
	body, _ := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_DATA_VALUE, Data: key}}) // too long only from 64 KiB on
	return body
}

// within goes down to the attributes of one that lies below others.
func within(body []byte, path ...uint16) func(do func(kind uint16, data []byte)) {
	return func(do func(kind uint16, data []byte)) {
		if len(path) == 0 {
			each(body, do)
			return
		}
		each(body, func(kind uint16, data []byte) {
			if kind == path[0] {
				within(data, path[1:]...)(do)
			}
		})
	}
}
