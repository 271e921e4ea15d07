package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/failpoint"
)

// A table that a socket owns can be changed by nobody else, and flushing the ruleset
// passes it by. With persist it outlives the socket, as an ordinary table, and whoever
// claims it next owns it. Without persist it would die with us, so we take both flags or
// none; both are known from Linux 6.9 on. See nf_tables_updtable and nft_rcv_nl_event in
// net/netfilter/nf_tables_api.c; the names are not yet in x/sys/unix.
const (
	flagOwner   = 0x2
	flagPersist = 0x4
	flagsOurs   = flagOwner | flagPersist

	attrHandle = 4
	attrOwner  = 7
)

// Option is how a Firewall differs from what it is by itself.
type Option int

// Shared leaves the tables to be changed by everybody, as they are on older kernels.
const Shared Option = 1

// ownership is whether the tables are ours alone.
type ownership int32

const (
	undecided ownership = iota
	owned
	shared
)

// Ownership says to a person who can change the tables.
func (f *Firewall) Ownership() string {
	if ownership(f.ownership.Load()) == owned {
		return "nobody else can change its tables"
	}
	return "others can change its tables, as this kernel cannot lock them"
}

// decide finds out whether the kernel lets us own tables, once.
func (f *Firewall) decide(ctx context.Context) error {
	if ownership(f.ownership.Load()) != undecided {
		return nil
	}
	if failpoint.Step("nftables", "own") != nil {
		f.ownership.Store(int32(shared))
		return nil
	}
	trial := newRulesetIn(trialName).inet
	err := f.with(ctx, func(c *conn) error {
		err := errors.Join(c.table(unix.NFT_MSG_NEWTABLE, trial, flagsOurs), c.table(unix.NFT_MSG_DELTABLE, trial))
		if err != nil {
			return err
		}
		return c.commit()
	})
	switch {
	case err == nil:
		f.ownership.Store(int32(owned))
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		f.ownership.Store(int32(shared))
	default:
		return fmt.Errorf("try to own a table: %w", err)
	}
	return nil
}

// flags are those of our tables.
func (f *Firewall) flags() uint32 {
	if ownership(f.ownership.Load()) == owned {
		return flagsOurs
	}
	return 0
}

// errOthers says that nothing can be done about a table, but by a person.
var errOthers = errors.New("it lets nobody change the table: end that program, or have it choose another name")

// farewell is how long a daemon may take to die: its sockets are closed one by one.
const farewell = time.Second

// outwait tries once more, for a moment, what another owner of a table keeps from being
// done. It waits only once: who is there that long does not go.
func (f *Firewall) outwait(ctx context.Context, try func() error) error {
	err := try()
	if f.waited.Swap(true) {
		return err
	}
	for end := time.Now().Add(farewell); errors.Is(err, errOthers) && time.Now().Before(end); err = try() {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(farewell / 50):
		}
	}
	return err
}

// claim makes the tables that stand, and those to come, ours alone.
func (f *Firewall) claim(ctx context.Context) error {
	if err := f.decide(ctx); err != nil {
		return err
	}
	return f.outwait(ctx, func() error {
		return f.with(ctx, func(c *conn) error {
			f.claims = true
			return f.adopt(c)
		})
	})
}

// adopt claims tables that an owner has left. It is but one message for each, so what
// they hold goes on all the while. A table that never had one cannot be adopted, only
// be built anew.
func (f *Firewall) adopt(c *conn) error {
	var others []error
	for _, t := range f.tables() {
		s, err := c.find(t)
		switch {
		case errors.Is(err, unix.ENOENT):
		case err != nil:
			return err
		case c.lockedOut(s):
			others = append(others, refusal(t, s))
		case s.flags&flagsOurs == flagPersist && f.flags() == flagsOurs:
			if err := c.table(unix.NFT_MSG_NEWTABLE, t, flagsOurs); err != nil {
				return err
			}
		}
	}
	if len(c.messages) == 0 {
		return errors.Join(others...)
	}
	if err := failpoint.Step("nftables", "adopt"); err != nil {
		return err
	}
	return errors.Join(c.commit(), errors.Join(others...))
}

// lockedOut reports whether somebody else owns a table.
func (c *conn) lockedOut(s stand) bool { return s.flags&flagOwner != 0 && s.owner != c.port }

func refusal(t *table, s stand) error {
	return fmt.Errorf("%s is owned by the program behind netlink port %d (most often its process ID): %w", t, s.owner, errOthers)
}

// stand is how a table stands in the kernel.
type stand struct {
	handle uint64 // which no other table will have
	flags  uint32
	owner  uint32 // a netlink port, if flags say that there is one
}

// find is ENOENT where there is no such table.
func (c *conn) find(t *table) (stand, error) {
	request, err := t.message(unix.NFT_MSG_GETTABLE)
	if err != nil {
		return stand{}, err
	}
	replies, err := c.raw.Execute(request)
	if err != nil {
		return stand{}, fmt.Errorf("%s: %w", t, err)
	}
	var s stand
	for _, r := range replies {
		if len(r.Data) < 4 {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(r.Data[4:])
		if err != nil {
			return stand{}, fmt.Errorf("%s: %w", t, err)
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			switch attrs.Type() {
			case attrHandle:
				s.handle = attrs.Uint64()
			case unix.NFTA_TABLE_FLAGS:
				s.flags = attrs.Uint32()
			case attrOwner:
				s.owner = attrs.Uint32()
			}
		}
		if err := attrs.Err(); err != nil {
			return stand{}, fmt.Errorf("%s: %w", t, err)
		}
	}
	return s, nil
}

// who owns the table, to a person.
func (c *conn) who(s stand) string {
	switch {
	case s.flags&flagOwner == 0:
		return "nobody"
	case s.owner == c.port:
		return "drawbridge"
	}
	return fmt.Sprintf("netlink port %d", s.owner)
}
