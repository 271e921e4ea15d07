// Package nftables is the firewall on nftables: one table, inet drawbridge, that
// leads published ports to containers, hides containers behind the host's address
// and drops what no network allows.
//
// It touches no other table and sets no sysctl. The number of its rules depends on
// nothing: whatever varies is an element of a set or map. It judges packets; that
// no other table drops what it lets through is the business of firewall/foreign.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Firewall is the layer. Create it with New.
type Firewall struct {
	table *table
	// port is the netlink port of conn: the kernel names it in the events of the
	// changes that we made ourselves.
	port atomic.Uint32

	mu   sync.Mutex
	conn *conn // nil after an error
}

// New connects to the kernel's nftables in the network namespace of the calling
// thread. It changes nothing.
func New() (*Firewall, error) {
	f := &Firewall{table: newTable()}
	if err := f.connect(); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return f, nil
}

func (f *Firewall) connect() error {
	c, err := dial()
	if err != nil {
		return err
	}
	f.conn = c
	f.port.Store(c.port)
	return nil
}

// with runs one piece of work on the connection. After an error the connection is
// thrown away: answers to what failed may still be under way on it.
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
	}
	return err
}

// Close gives the connection back. What stands in the kernel stays.
func (f *Firewall) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		f.conn.close()
		f.conn = nil
	}
}

// Apply makes the table match want, in one transaction: packets see all of it or
// none. If have is nil, or what was built on it fails, it looks first.
func (f *Firewall) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have != nil {
		c := difference(have, want)
		if c.empty() || f.commit(ctx, false, c) == nil {
			return nil
		}
		// An error does not mean that nothing happened.
	}
	return f.mend(ctx, want)
}

// mend looks at the table and changes what differs. A table whose rules are not
// exactly ours is built anew, and so is one that cannot be read: we wrote no such.
func (f *Firewall) mend(ctx context.Context, want *plan.Plan) error {
	planned := elements(want)
	seen, err := f.look(ctx)
	rebuild := err != nil || len(seen.drift) > 0
	c := change{add: planned}
	if !rebuild {
		if c = seen.change(planned); c.empty() {
			return nil
		}
	}
	err = f.commit(ctx, rebuild, c)
	if err == nil {
		return nil
	}
	return f.piecemeal(ctx, rebuild, c)
}

// piecemeal does one owner after the other what failed in one transaction, so that
// one bad element harms nobody but its owner.
func (f *Firewall) piecemeal(ctx context.Context, rebuild bool, c change) error {
	if err := f.commit(ctx, rebuild, change{remove: c.remove}); err != nil {
		return fmt.Errorf("%s: %w", tableObject, err)
	}
	var failed []error
	for _, owner := range c.owners() {
		if err := f.commit(ctx, false, c.of(owner)); err != nil {
			failed = append(failed, &plan.ObjectError{Owner: owner, Object: tableObject, Err: err})
		}
	}
	return errors.Join(failed...)
}

// tableObject is the table's name in errors and drift.
const tableObject = "table inet " + tableName

// Remove deletes the table.
func (f *Firewall) Remove(ctx context.Context) error {
	err := f.with(ctx, func(c *conn) error {
		_, err := c.nft.ListTableOfFamily(tableName, nftables.TableFamilyINet)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		c.nft.DelTable(c.table)
		return c.nft.Flush()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", tableObject, err)
	}
	return nil
}
