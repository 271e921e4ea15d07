// Package nftables is the firewall on nftables: a table of family inet that leads
// published ports to containers, hides containers behind the host's address and drops
// what no network allows, and one of family bridge that keeps containers apart where
// a network wants that.
//
// It touches no other table and sets no sysctl. The number of its rules depends on
// nothing: whatever varies is an element of a set or map. It judges packets; that
// no other table drops what it lets through is the business of firewall/foreign.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
)

// Firewall is the layer. Create it with New.
type Firewall struct {
	rules *ruleset
	// port is the netlink port of conn: the kernel names it in the events of the
	// changes that we made ourselves.
	port atomic.Uint32
	// bridgeless says that the kernel can have no table of family bridge.
	bridgeless atomic.Bool
	ownership  atomic.Int32 // an ownership
	waited     atomic.Bool  // another owner has been given time

	mu     sync.Mutex
	conn   *conn // nil after an error
	claims bool  // whoever connects claims the tables
	known  *known
}

// New connects to the kernel's nftables in the network namespace of the calling
// thread. It changes nothing.
func New(options ...Option) (*Firewall, error) {
	f := &Firewall{rules: newRuleset()}
	if slices.Contains(options, Shared) {
		f.ownership.Store(int32(shared))
	}
	if err := f.connect(); err != nil {
		return nil, fmt.Errorf("open nfnetlink: %w", err)
	}
	return f, nil
}

func (f *Firewall) connect() error {
	c, err := dial()
	if err != nil {
		return err
	}
	f.port.Store(c.port)
	f.known = nil // until here anybody may have done anything
	if f.claims {
		if err := f.adopt(c); err != nil && !errors.Is(err, errOthers) {
			c.close()
			return err
		}
	}
	f.conn = c
	return nil
}

// with runs one piece of work on the connection. After an error the connection is
// thrown away: answers to what failed may still be under way on it. The next one comes
// at once, as until then the tables that it owned are anybody's.
func (f *Firewall) with(ctx context.Context, work func(*conn) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		if err := f.connect(); err != nil {
			return err
		}
	}
	err := f.conn.limit(ctx)
	if err == nil {
		err = work(f.conn)
	}
	if err != nil {
		f.conn.close()
		f.conn = nil
		if f.claims {
			_ = f.connect() // else the next work tries, and tells
		}
	}
	return err
}

// Close gives the connection back. What stands in the kernel stays, and is anybody's.
func (f *Firewall) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims = false
	if f.conn != nil {
		f.conn.close()
		f.conn = nil
	}
}

// tables are those that this kernel can have.
func (f *Firewall) tables() []*table {
	if f.bridgeless.Load() {
		return []*table{f.rules.inet}
	}
	return []*table{f.rules.inet, f.rules.bridge}
}

// Apply makes the tables match want, in one transaction: packets see all of it or
// none. If have is nil, it looks first.
func (f *Firewall) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have == nil {
		return f.mend(ctx, want)
	}
	c, refused := f.possible(difference(have, want))
	if !c.empty() {
		// An error does not mean that nothing happened. Who asked has it looked at then, here
		// and by those who must know that the tables may have been gone.
		refused = errors.Join(refused, f.advance(ctx, have, want, c))
	}
	return refused
}

// mend looks at the tables and changes what differs. If rules are not exactly ours
// both are built anew, and so if they cannot be read: we wrote no such.
func (f *Firewall) mend(ctx context.Context, want *plan.Plan) error {
	if err := f.claim(ctx); err != nil {
		return err
	}
	seen, c, err := f.compare(ctx, want)
	rebuild := err != nil || len(seen.drift) > 0
	if rebuild {
		c = change{add: elements(want)}
	}
	c, refused := f.possible(c)
	if !rebuild && c.empty() {
		return refused
	}
	err = f.commit(ctx, rebuild, c)
	switch {
	case err == nil:
		return refused
	case f.lacksBridges(ctx):
		return f.mend(ctx, want)
	}
	return errors.Join(refused, f.piecemeal(ctx, rebuild, c))
}

// ErrBridgeless says what an operator can not change.
var ErrBridgeless = fmt.Errorf("the kernel can not keep containers of one network apart, it was built without CONFIG_NF_TABLES_BRIDGE: %w", unix.EOPNOTSUPP)

// possible is what of a change this kernel can do, and an error for each network and
// endpoint that wants more.
func (f *Firewall) possible(c change) (change, error) {
	if !f.bridgeless.Load() {
		return c, nil
	}
	c, owners := c.without(setApart, setApartBridges)
	var refused []error
	for _, owner := range owners {
		refused = append(refused, &plan.ObjectError{Owner: owner, Object: f.rules.bridge.String(), Err: ErrBridgeless})
	}
	return c, errors.Join(refused...)
}

// lacksBridges finds out, after a failure, whether that is news.
func (f *Firewall) lacksBridges(ctx context.Context) bool {
	if f.bridgeless.Load() {
		return false
	}
	err := f.with(ctx, func(c *conn) error {
		if err := c.table(unix.NFT_MSG_NEWTABLE, f.rules.bridge); err != nil { // no change where it is
			return err
		}
		return c.commit()
	})
	f.bridgeless.Store(errors.Is(err, unix.EOPNOTSUPP))
	return f.bridgeless.Load()
}

// piecemeal does one owner after the other what failed in one transaction, so that
// one bad element harms nobody but its owner.
func (f *Firewall) piecemeal(ctx context.Context, rebuild bool, c change) error {
	if err := f.commit(ctx, rebuild, change{remove: c.remove}); err != nil {
		return fmt.Errorf("%s: %w", f.rules.inet, err)
	}
	var failed []error
	for _, owner := range c.owners() {
		if err := f.commit(ctx, false, c.of(owner)); err != nil {
			failed = append(failed, &plan.ObjectError{Owner: owner, Object: f.rules.inet.String(), Err: err})
		}
	}
	return errors.Join(failed...)
}

// Left reports what stands of ours, for whom nothing should.
func (f *Firewall) Left(ctx context.Context) ([]plan.Drift, error) {
	var all []plan.Drift
	err := f.with(ctx, func(c *conn) error {
		there, err := f.there(c)
		for _, t := range there {
			all = append(all, plan.Drift{Object: t.String(), Field: "table", Got: "present"})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", f.rules.inet, err)
	}
	return all, nil
}

// Chains are the names of all chains, in whichever table. Those of iptables-nft are among
// them.
func (f *Firewall) Chains(ctx context.Context) ([]string, error) {
	var names []string
	err := f.with(ctx, func(c *conn) error {
		chains, err := c.nft.ListChains()
		for _, ch := range chains {
			names = append(names, ch.Name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list nftables' chains: %w", err)
	}
	return names, nil
}

// Generation is another whenever anybody has changed a table.
func (f *Firewall) Generation(ctx context.Context) (uint32, error) {
	var id uint32
	err := f.with(ctx, func(c *conn) (err error) {
		id, _, err = c.generation()
		return err
	})
	return id, err
}

// there are our tables that stand.
func (f *Firewall) there(c *conn) ([]*table, error) {
	var all []*table
	for _, t := range f.tables() {
		_, err := c.find(t)
		if err == nil {
			all = append(all, t)
		} else if !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return all, nil
}

// Remove deletes the tables.
func (f *Firewall) Remove(ctx context.Context) error {
	err := f.outwait(ctx, func() error { return f.with(ctx, f.remove) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", f.rules.inet, err)
	}
	return nil
}

func (f *Firewall) remove(c *conn) error {
	f.claims = false
	there, err := f.there(c)
	if err != nil || len(there) == 0 {
		return err
	}
	for _, t := range there {
		s, err := c.find(t)
		if err == nil && c.lockedOut(s) {
			err = refusal(t, s)
		}
		if err = errors.Join(err, c.table(unix.NFT_MSG_DELTABLE, t)); err != nil {
			return err
		}
	}
	if err := failpoint.Step("nftables", "remove"); err != nil {
		return err
	}
	return c.commit()
}
