package foreign

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Obstacle is a chain of somebody else's that drops what containers of ours send or
// are sent. No accept of ours can overrule it: a packet must pass every chain of a
// hook. It is never touched; who keeps it must let our bridges through.
//
// Only the forward hook is looked at. There alone packets of containers are told from
// those of the host by where they come from and where they go; who drops them earlier
// (prerouting, ingress) or later drops the same of the host's own, and what goes to the
// host itself (input) or comes from it (output) is its keeper's to open or to close.
type Obstacle struct {
	Table   string   // e.g. inet filter
	Chain   string   // e.g. forward
	Cause   string   // e.g. policy drop
	Bridges []string // e.g. dbr3f2a9c0d11ee
	names   []string // what rules call their packets' interfaces, e.g. dbr*
}

// Cure are the commands after which the chain lets our packets through.
func (o Obstacle) Cure() []string {
	keys := []string{"iifname", "oifname"}
	if strings.HasPrefix(o.Table, "bridge ") {
		keys = keys[:1] // both ends are ports of containers
	}
	var lines []string
	for _, name := range o.names {
		for _, key := range keys {
			lines = append(lines, fmt.Sprintf("nft insert rule %s %s %s %q accept", o.Table, o.Chain, key, name))
		}
	}
	return lines
}

func (o Obstacle) String() string {
	return fmt.Sprintf("table %s, chain %s: %s: it keeps packets from containers on %s; to let them pass (and again where the table is made): %s",
		o.Table, o.Chain, o.Cause, strings.Join(o.Bridges, ", "), strings.Join(o.Cure(), "; "))
}

// Obstacles finds the chains that would stop what the plan lets pass, in fixed order.
func (r *Rules) Obstacles(want *plan.Plan) ([]Obstacle, error) {
	found, err := settled(func() ([]Obstacle, error) { return obstacles(want) })
	if err != nil {
		return nil, fmt.Errorf("look for chains that drop: %w", err)
	}
	return found, nil
}

// warn tells of each obstacle that was not there when it last looked.
func (r *Rules) warn(want *plan.Plan) error {
	if r.Warn == nil {
		return nil
	}
	found, err := r.Obstacles(want)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.warned
	r.warned = map[string]bool{}
	for _, o := range found {
		chain := o.Table + " " + o.Chain
		if r.warned[chain] = true; !before[chain] {
			r.Warn(o.String())
		}
	}
	return nil
}

func obstacles(want *plan.Plan) (_ []Obstacle, err error) {
	if want.Networks.Len() == 0 {
		return nil, nil
	}
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.CloseLasting()) }()
	chains, err := chainsOfOthers(conn)
	if err != nil || len(chains) == 0 {
		return nil, err
	}
	ways, err := waysOf(want)
	if err != nil {
		return nil, err
	}
	var all []Obstacle
	for _, c := range chains {
		j := &judge{conn: conn, table: c.Table, rules: map[string][]*nftables.Rule{}, elements: map[string][]nftables.SetElement{}}
		o := j.obstacle(c, ways)
		if j.err != nil {
			return nil, fmt.Errorf("table %s: %w", tableText(c.Table), j.err)
		}
		if len(o.Bridges) > 0 {
			all = append(all, o)
		}
	}
	return all, nil
}

// chainsOfOthers leaves out those of tables that are dormant, which judge nothing.
func chainsOfOthers(conn *nftables.Conn) ([]*nftables.Chain, error) {
	tables, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	dormant := map[string]bool{}
	for _, t := range tables {
		// The library takes the flags, which come in the network's order, for the machine's.
		flags := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))
		dormant[tableText(t)] = flags&unix.NFT_TABLE_F_DORMANT != 0
	}
	chains, err := conn.ListChains()
	return slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return !others(c) || dormant[tableText(c.Table)] }), err
}

// others reports whether a chain judges what is forwarded and is somebody else's that
// we are not let through otherwise: iptables' FORWARD has our accepts, an engine's
// tables judge its own bridges only, and firewalld is told of ours by its own means.
func others(c *nftables.Chain) bool {
	if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter {
		return false
	}
	switch c.Table.Name {
	case "drawbridge", engineTable, "firewalld":
		return false
	case "filter":
		return c.Name != forward || familyText(c.Table.Family) != "ip" && familyText(c.Table.Family) != "ip6"
	}
	return familyText(c.Table.Family) != ""
}

func tableText(t *nftables.Table) string { return familyText(t.Family) + " " + t.Name }

// familyText is "" for a family that has no forward hook.
func familyText(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return ""
}

// obstacle is about the bridges of all ways that the chain stops.
func (j *judge) obstacle(c *nftables.Chain, ways []way) Obstacle {
	o := Obstacle{Table: tableText(c.Table), Chain: c.Name}
	for _, w := range ways {
		if !w.seenBy(c.Table.Family) {
			continue
		}
		if cause := j.stops(c, w); cause != "" {
			o.Cause = cause
			o.Bridges = append(o.Bridges, w.bridge)
			o.names = append(o.names, w.name)
		}
	}
	slices.Sort(o.Bridges)
	slices.Sort(o.names)
	o.Bridges, o.names = slices.Compact(o.Bridges), slices.Compact(o.names)
	return o
}

// stops returns what stops a way, "" if nothing does: if any of its kinds of
// conversations passes, then the chain's keeper knows of our bridge, and has decided
// about the others.
func (j *judge) stops(c *nftables.Chain, w way) (cause string) {
	for _, talk := range w.talks {
		stopped := ""
		for _, p := range talk {
			if f, why := j.base(p, c); f == dropped {
				stopped = why
				break
			}
		}
		if stopped == "" {
			return ""
		}
		if cause == "" {
			cause = stopped
		}
	}
	return cause
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
