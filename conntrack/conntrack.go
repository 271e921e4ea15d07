// Package conntrack is the layer that ends connections: when an endpoint leaves or is
// deleted, every entry of the kernel's connection tracking that has one of its
// addresses goes, and when a published port is led elsewhere, every entry that still leads
// where it led before. Where packets are translated to is decided once an entry, so a
// sender that keeps its port would not notice for as long as it sends. After a mend, every
// entry goes that was made by what the firewall did not do meanwhile.
//
// It makes no entries and watches none. Zones other than the default one are not its
// business, and neither is what the userland proxy serves.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Table is the layer of connection tracking. It belongs at the end of the row: as long
// as something translates to an address or a link leads there, a packet may make an
// entry anew. It works in the network namespace of the thread that called New.
type Table struct {
	sockets map[int]*nl.SocketHandle
	routes  *netlink.Handle
	refused error // why the kernel does not let us see its entries; nil if it does

	mu    sync.Mutex // one Apply or Remove at a time
	ways  map[uint8]way
	ports map[kind]bool // whether filters by port can be trusted, as far as tried
	small int           // how many entries are so few that filters do not pay
	// seen is the plan last applied. have does not say what left: it is nil after any
	// layer's failure, and only this one remembers across it.
	seen *plan.Plan
	owed map[netip.Addr]bool // those that left and may have entries still
	gone []plan.Mapping      // those that went and may have entries still
	// doubt says that there may be entries that are not as they should be, nobody knows
	// which.
	doubt bool
}

// New opens the socket. A kernel without netlink for connection tracking, or for
// netfilter at all, is none to fail on: see Notices.
func New() *Table {
	t := &Table{ways: map[uint8]way{}, ports: map[kind]bool{}, small: small, owed: map[netip.Addr]bool{}}
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		t.refused = fmt.Errorf("open nfnetlink: %w", err)
		return t
	}
	// The kernel's own words make better errors; an old kernel has none.
	_ = socket.SetExtAck(true)
	t.sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
	if t.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		t.refused = fmt.Errorf("open rtnetlink: %w", err)
		return t
	}
	t.refused = t.usable()
	return t
}

// Close gives the socket back.
func (t *Table) Close() {
	for _, s := range t.sockets {
		s.Close()
	}
	if t.routes != nil {
		t.routes.Close()
	}
}

// Notices says what users should know of this kernel.
func (t *Table) Notices() []string {
	if t.refused == nil {
		return nil
	}
	return []string{fmt.Sprintf("connection tracking cannot be cleaned (%v; is nf_conntrack_netlink missing?): "+
		"a sender that keeps its port goes on to where it was led, to a removed container even, until it pauses", t.refused)}
}

// Apply deletes the entries of what left since the last call, and those that lead
// elsewhere than a mapping that came since then would. If have is nil the firewall may not
// have stood, so it looks at all entries: those that lead elsewhere than any mapping would,
// lack another translation that they should have, or are of what is forbidden. Errors name no endpoint: to leave is a change of
// the endpoint, and a change that failed on it would be undone.
//
// The first call cannot know what left while no daemon ran, or when the last one was
// killed amid a request. It deletes what translates to addresses that no endpoint of
// ours has; a container may have others besides, which nothing is translated to. This
// reads every entry, so it is not done for later looks.
func (t *Table) Apply(_ context.Context, have, want *plan.Plan) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.refused != nil:
		return nil
	case t.seen == nil:
		there := newTerritory(want, func(e *plan.Endpoint) bool { return e.Veth.Joined })
		awaitPackets()
		wrong := t.wrong(want)
		if err := t.sweep(there, func(e entry) bool { return there.dead(e) || wrong(e) }); err != nil {
			return err
		}
		t.seen = want
		return nil
	}
	t.note(t.seen, want)
	came, went := changed(t.seen, want)
	t.seen, t.gone = want, append(t.gone, went...)
	if t.doubt || have == nil {
		return t.overhaul(want)
	}
	return t.settle(review{plan: want, want: newLedger(came), gone: newLedger(t.gone)})
}

// note takes down the addresses of endpoints that left, and strikes out those that a
// new endpoint has joined with since: the entries are its own by now.
func (t *Table) note(before, after *plan.Plan) {
	var left []netip.Addr
	for n := range tree.Diff(before.Networks, after.Networks) {
		for e := range plan.DiffEndpoints(n.Old, n.New) {
			switch {
			case e.New != nil && e.New.Veth.Joined:
				for _, addr := range e.New.Addresses {
					delete(t.owed, addr)
				}
				left = append(left, lost(e.Old, e.New)...)
			case e.Old != nil && (e.New == nil || e.Old.Veth.Joined):
				left = append(left, e.Old.Addresses...)
			}
		}
	}
	for _, addr := range left {
		t.owed[addr] = true
	}
}

// lost are the addresses that an endpoint had and has no more.
func lost(old, now *plan.Endpoint) []netip.Addr {
	if old == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(old.Addresses), func(a netip.Addr) bool { return slices.Contains(now.Addresses, a) })
}

// many is the number of addresses from which on it is cheaper to read the whole table
// once than to have the kernel walk it twice for each. So it is for any number where the
// table holds no more than a few entries: a walk through an empty one takes milliseconds.
const many, small = 8, 2000

// settle deletes the entries of all that left, and those that a review finds stale. What
// cannot be deleted is looked for next time.
func (t *Table) settle(r review) error {
	if len(t.owed)+len(r.want)+len(r.gone) == 0 {
		return nil
	}
	if len(t.owed) <= many && t.count() > t.small {
		return errors.Join(t.pay(), t.renew(r))
	}
	return t.readAll(r.stale)
}

// overhaul looks at all entries.
func (t *Table) overhaul(want *plan.Plan) error {
	if len(t.owed)+len(t.gone)+want.Networks.Len() == 0 {
		return nil
	}
	awaitPackets()
	return t.readAll(t.wrong(want))
}

// wrong tells entries that are as the plan would never have them, whenever they began.
func (t *Table) wrong(want *plan.Plan) func(entry) bool {
	r := review{plan: want, want: newLedger(published(want)), gone: newLedger(t.gone)}
	g := newGap(want, remembered(t.exit))
	return func(e entry) bool { return r.stale(e) || g.stale(e) }
}

// readAll deletes the entries of all that left, and the chosen ones, in one walk.
func (t *Table) readAll(chosen func(entry) bool) error {
	t.doubt = true
	err := t.purge(unix.AF_UNSPEC, nil, func(e entry) bool {
		return e.hasSource(func(a netip.Addr) bool { return t.owed[a] }) || chosen(e)
	})
	if err != nil {
		return failure("conntrack entries of what left or was led elsewhere", err)
	}
	clear(t.owed)
	t.gone, t.doubt = nil, false
	return nil
}

// pay deletes the entries of all that left.
func (t *Table) pay() error {
	var failed []error
	for _, addr := range slices.SortedFunc(maps.Keys(t.owed), netip.Addr.Compare) {
		if err := t.forget(addr); err != nil {
			failed = append(failed, failure("conntrack entries of "+addr.String(), err))
			continue
		}
		delete(t.owed, addr)
	}
	return errors.Join(failed...)
}

// renew deletes what a review finds stale.
func (t *Table) renew(r review) error {
	t.doubt = true
	if err := t.clean(r); err != nil {
		return failure("conntrack entries of published ports", err)
	}
	t.gone, t.doubt = nil, false
	return nil
}

func failure(object string, err error) error { return &plan.ObjectError{Object: object, Err: err} }

// Check finds nothing: entries come and go with packets, and one that an address of
// ours has is as it should be.
func (t *Table) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove does nothing: Clear, which goes last, does.
func (t *Table) Remove(context.Context) error { return nil }

// Clear is the layer that deletes the entries of every endpoint when all is taken off
// the host. It belongs at the head of the row, which is removed from its end.
type Clear struct{ Table *Table }

// Apply does nothing: the Table's own does.
func (c Clear) Apply(context.Context, *plan.Plan, *plan.Plan) error { return nil }

// Check finds nothing.
func (c Clear) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove deletes the entries of all subnets.
func (c Clear) Remove(context.Context) error {
	t := c.Table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused != nil || t.seen == nil {
		return nil
	}
	all := newTerritory(t.seen, func(*plan.Endpoint) bool { return false })
	return t.sweep(all, all.dead)
}

// territory is where endpoints of ours have their addresses.
type territory struct {
	// planned says of bridges and endpoints whether they may have entries.
	planned map[netip.Addr]bool
	// subnets are those in which nobody else can be.
	subnets map[netip.Prefix]bool
	lengths []int // of the subnets
}

func newTerritory(p *plan.Plan, joined func(*plan.Endpoint) bool) territory {
	all := territory{planned: map[netip.Addr]bool{}, subnets: map[netip.Prefix]bool{}}
	for _, n := range p.Networks.All() {
		for _, a := range n.Bridge.Addresses {
			all.planned[a.Addr()] = true
		}
		for _, e := range n.Endpoints.All() {
			for _, a := range e.Addresses {
				all.planned[a] = all.planned[a] || joined(e)
			}
		}
		for _, s := range n.Zone.Subnets {
			// Other machines may stand at a bridge that is adopted, and every link has
			// link-local addresses.
			if !n.Bridge.Named && !s.Prefix.Addr().IsLinkLocalUnicast() {
				all.subnets[s.Prefix] = true
				all.lengths = append(all.lengths, s.Prefix.Bits())
			}
		}
	}
	slices.Sort(all.lengths)
	all.lengths = slices.Compact(all.lengths)
	return all
}

// dead reports whether the entry can be of no endpoint that is there.
func (t territory) dead(e entry) bool { return e.hasSource(t.left) || e.leads(t.vacant) }

// left reports whether the address is that of an endpoint that has not joined.
func (t territory) left(addr netip.Addr) bool {
	alive, planned := t.planned[addr]
	return planned && !alive
}

// vacant reports whether the address is in a subnet of ours and no endpoint's.
func (t territory) vacant(addr netip.Addr) bool {
	if _, planned := t.planned[addr]; planned {
		return false
	}
	return slices.ContainsFunc(t.lengths, func(bits int) bool {
		prefix, err := addr.Prefix(bits)
		return err == nil && t.subnets[prefix]
	})
}

// sweep deletes the chosen of all entries that there are.
func (t *Table) sweep(all territory, chosen func(entry) bool) error {
	if len(all.planned)+len(all.subnets) == 0 {
		return nil
	}
	err := t.purge(unix.AF_UNSPEC, nil, chosen)
	if err != nil {
		return failure("conntrack entries of endpoints that are not there", err)
	}
	return nil
}
