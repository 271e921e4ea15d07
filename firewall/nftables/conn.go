package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
)

// bufferSize is that of the socket's buffers. With the default, a transaction of
// some 200 rules is committed and yet reported as failed (ENOBUFS), and one of
// some 1000 is not even sent.
const bufferSize = 16 << 20

// chunk is how many elements go into one message: all of them are one attribute,
// whose length is of 16 bits.
const chunk = 256

// patience bounds the wait for the kernel where the caller does not.
const patience = 10 * time.Second

// conn is a connection to the kernel's nftables.
type conn struct {
	nft *nftables.Conn // asks
	*batch
	raw  *netlink.Conn // the socket below nft, and the tables' owner
	port uint32
}

func dial() (*conn, error) {
	c := &conn{}
	var err error
	if c.batch, err = newBatch(); err != nil {
		return nil, err
	}
	c.nft, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(raw *netlink.Conn) error {
		c.raw = raw
		return errors.Join(raw.SetReadBuffer(bufferSize), raw.SetWriteBuffer(bufferSize))
	}))
	if err != nil {
		return nil, err
	}
	if err := c.limit(context.Background()); err != nil {
		c.close()
		return nil, err
	}
	_, c.port, err = c.generation()
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// close ignores errors: there is nothing to be done about them.
func (c *conn) close() { _ = c.nft.CloseLasting() }

// limit bounds the waiting of what follows.
func (c *conn) limit(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(patience)
	}
	return c.raw.SetDeadline(deadline)
}

// generation is the number of the present ruleset, which every transaction of
// anybody raises, and our own netlink port.
func (c *conn) generation() (id, port uint32, err error) {
	replies, err := c.raw.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: nfgenmsg(unix.AF_UNSPEC, 0),
	})
	if err != nil {
		return 0, 0, fmt.Errorf("generation of the ruleset: %w", err)
	}
	for _, r := range replies {
		if len(r.Data) < 4 {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(r.Data[4:])
		if err != nil {
			return 0, 0, fmt.Errorf("generation of the ruleset: %w", err)
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_GEN_ID {
				return attrs.Uint32(), r.Header.PID, nil
			}
		}
	}
	return 0, 0, errors.New("generation of the ruleset: no answer")
}

// commit sends one transaction: the tables anew if rebuild is set, then what goes,
// then what comes. There is no moment without rules.
func (f *Firewall) commit(ctx context.Context, rebuild bool, todo change) error {
	return f.with(ctx, func(c *conn) error {
		f.known = nil
		if rebuild {
			for _, t := range f.tables() {
				if err := c.build(t, f.flags()); err != nil {
					return err
				}
			}
		}
		return f.exchange(c, todo)
	})
}

// advance sends the transaction that leads from one plan to another.
func (f *Firewall) advance(ctx context.Context, have, want *plan.Plan, todo change) error {
	return f.with(ctx, func(c *conn) error {
		if err := f.exchange(c, todo); err != nil {
			return err
		}
		f.followed(have, want)
		return nil
	})
}

// exchange sends what was written down so far, what goes and what comes.
func (f *Firewall) exchange(c *conn, todo change) error {
	if err := send(f.rules, todo.remove, c.scribe.SetDeleteElements); err != nil {
		return err
	}
	if err := send(f.rules, todo.add, c.scribe.SetAddElements); err != nil {
		return err
	}
	if err := failpoint.Step("nftables", "commit"); err != nil {
		return err
	}
	return c.commit()
}

// build writes down a whole table without elements. Adding it first makes deleting it
// no mistake where it is missing.
func (b *batch) build(t *table, flags uint32) error {
	err := errors.Join(b.table(unix.NFT_MSG_NEWTABLE, t), b.table(unix.NFT_MSG_DELTABLE, t), b.table(unix.NFT_MSG_NEWTABLE, t, flags))
	if err != nil {
		return err
	}
	for _, s := range t.sets {
		if err := b.scribe.AddSet(s.kernel(), nil); err != nil {
			return err
		}
	}
	for _, ch := range t.chains {
		b.scribe.AddChain(ch.kernel(t))
	}
	for _, ch := range t.chains {
		for _, r := range ch.rules {
			b.scribe.AddRule(&nftables.Rule{Table: t.kernel, Chain: ch.kernel(t), Exprs: r.exprs, UserData: r.userData()})
		}
	}
	return nil
}

// kernel is the set in the library's words.
func (s *set) kernel() *nftables.Set {
	made := &nftables.Set{
		Table: s.table.kernel, ID: s.id, Name: s.name,
		KeyType: datatype(s.key), Concatenation: len(s.key) > 1, Interval: s.interval,
	}
	if s.key[0] == ifname && len(s.key) == 1 {
		// The kernel does not care, but nft would show the names backwards, hence empty.
		made.KeyByteOrder = binaryutil.NativeEndian
	}
	if len(s.value) > 0 {
		made.IsMap, made.DataType = true, datatype(s.value)
	}
	return made
}

// kernel is the chain in the library's words.
func (ch chain) kernel(t *table) *nftables.Chain {
	made := &nftables.Chain{Table: t.kernel, Name: ch.name}
	if ch.typ != "" {
		policy := nftables.ChainPolicyAccept
		made.Type, made.Hooknum, made.Priority, made.Policy = ch.typ, ch.hook, &ch.priority, &policy
	}
	return made
}

// userData is the comment in the form that nft shows.
func (r rule) userData() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// send queues elements in fixed order, set by set.
func send(r *ruleset, elements map[element]plan.Owner, queue func(*nftables.Set, []nftables.SetElement) error) error {
	var raw []nftables.SetElement
	sorted := slices.SortedFunc(maps.Keys(elements), compare)
	for i, e := range sorted {
		s := r.sets[e.set]
		raw = append(raw, s.encode(e)...)
		if i+1 < len(sorted) && sorted[i+1].set == e.set && len(raw) < chunk {
			continue
		}
		if err := queue(s.kernel(), raw); err != nil {
			return err
		}
		raw = nil
	}
	return nil
}
