package foreign

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Barrier is a chain of somebody else's that drops what containers of ours send or
// are sent. No accept of ours can overrule it: a packet must pass every chain of a
// hook. It is never touched; who keeps it must let our bridges through.
//
// Only the forward hook is looked at. There alone packets of containers are told from
// those of the host by where they come from and where they go; who drops them earlier
// (prerouting, ingress) or later drops the same of the host's own, and what goes to the
// host itself (input) or comes from it (output) is its keeper's to open or to close.
type Barrier struct {
	Table   string   // e.g. inet filter
	Chain   string   // e.g. forward
	Cause   string   // e.g. policy drop
	Bridges []string // e.g. dbr3f2a9c0d11ee
	names   []string // what rules call their packets' interfaces, e.g. dbr*
	unknown string   // why nobody knows whether there is one in the table
}

// Cure are the commands after which the chain lets our packets through.
func (b Barrier) Cure() []string {
	keys := []string{"iifname", "oifname"}
	if strings.HasPrefix(b.Table, "bridge ") {
		keys = keys[:1] // both ends are ports of containers
	}
	var lines []string
	for _, name := range b.names {
		for _, key := range keys {
			lines = append(lines, fmt.Sprintf("nft insert rule %s %s %s %q accept", b.Table, b.Chain, key, name))
		}
	}
	return lines
}

func (b Barrier) String() string {
	switch {
	case b.unknown != "" && b.Table == "":
		return b.unknown
	case b.unknown != "":
		return fmt.Sprintf("table %s cannot be judged: %s", b.Table, b.unknown)
	}
	return fmt.Sprintf("table %s, chain %s: %s: it keeps packets from containers on %s; to let them pass (and again where the table is made): %s",
		b.Table, b.Chain, b.Cause, strings.Join(b.Bridges, ", "), strings.Join(b.Cure(), "; "))
}

// Barriers finds the chains that would stop what the plan lets pass, in fixed order. It
// takes as long as others' tables are large.
func (r *Rules) Barriers(want *plan.Plan) ([]Barrier, error) {
	found, err := settled(func() ([]Barrier, error) { return barriers(want) })
	if err != nil {
		return nil, fmt.Errorf("look for chains that drop: %w", err)
	}
	return found, nil
}

func barriers(want *plan.Plan) (_ []Barrier, err error) {
	if want.Networks.Len() == 0 {
		return nil, nil
	}
	conn, err := newReader()
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
	var all []Barrier
	for _, c := range chains {
		j := newJudge(conn, c.Table)
		b := j.barrier(c, ways)
		if j.err != nil {
			b = Barrier{Table: tableText(c.Table), Chain: c.Name, unknown: j.err.Error()}
		}
		if b.unknown != "" || len(b.Bridges) > 0 {
			all = append(all, b)
		}
	}
	return all, nil
}

// chainsOfOthers leaves out those of tables that are dormant, which judge nothing.
func chainsOfOthers(conn *reader) ([]*nftables.Chain, error) {
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

// barrier is about the bridges of all ways that the chain stops.
func (j *judge) barrier(c *nftables.Chain, ways []way) Barrier {
	b := Barrier{Table: tableText(c.Table), Chain: c.Name}
	judged := map[course][]kin{}
	for _, w := range ways {
		if !w.seenBy(c.Table.Family) {
			continue
		}
		if cause := j.verdict(w, judged, func(w way) string { return j.stops(c, w) }); cause != "" {
			b.Cause = cause
			b.Bridges = append(b.Bridges, w.bridge)
			b.names = append(b.names, w.name)
		}
	}
	slices.Sort(b.Bridges)
	slices.Sort(b.names)
	b.Bridges, b.names = slices.Compact(b.Bridges), slices.Compact(b.names)
	return b
}

// stops returns what stops a way, "" if nothing does: if any of its kinds of
// conversations passes, then the chain's keeper knows of our bridge, and has decided
// about the others.
func (j *judge) stops(c *nftables.Chain, w way) (cause string) {
	for i, talk := range w.talks {
		stopped := ""
		for k, p := range talk {
			j.packet = i*len(talk) + k
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
