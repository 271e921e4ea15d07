package foreign

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"

	"github.com/drawbridge-net/drawbridge/plan"
)

// The newest engine's nftables mode: in its tables ip docker-bridges and ip6
// docker-bridges, each bridge has a chain for what leaves by it, and its name is in
// the chain's (daemon/libnetwork/drivers/bridge/internal/nftabler in
// github.com/moby/moby).
const (
	engineTable = "docker-bridges"
	engineChain = "filter-forward-in__"
)

// readNFT reads nftables' side over netlink, without a process.
func readNFT() ([]filter, error) {
	filters, err := settled(dumpNFT)
	if err != nil {
		return nil, fmt.Errorf("read nftables' rules: %w", err)
	}
	return filters, nil
}

func dumpNFT() (_ []filter, err error) {
	conn, err := newReader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.CloseLasting()) }()
	filter4, err := dumpFamily(conn, nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("IPv4: %w", err)
	}
	filter6, err := dumpFamily(conn, nftables.TableFamilyIPv6)
	if err != nil {
		return nil, fmt.Errorf("IPv6: %w", err)
	}
	filter4.Chain, filter6.Chain = plan.Chain{Family: 4, Kind: kindNFT}, plan.Chain{Family: 6, Kind: kindNFT}
	return []filter{filter4, filter6}, nil
}

// dumpFamily reads a family's chains of iptables-nft, and the names of the engine's
// own.
func dumpFamily(conn *reader, family nftables.TableFamily) (f filter, err error) {
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return f, err
	}
	for _, c := range chains {
		if bridge, ok := strings.CutPrefix(c.Name, engineChain); ok && c.Table.Name == engineTable {
			f.engines, f.shields = append(f.engines, bridge), true
		}
		if c.Table.Name != "filter" || !tells(c.Name) {
			continue
		}
		dump := conn.chain
		if c.Name == forward {
			dump = conn.forward
		}
		rules, err := dump(c)
		if err != nil {
			return f, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		f.engines, f.shields = bridges(f.engines, c.Name, rules), f.shields || shields(c.Name)
		if c.Name == forward {
			f.forward, f.drops = rules, dropsRest(c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop, rules)
		}
	}
	return f, nil
}

// forward follows where FORWARD's rules lead.
func (r *reader) forward(c *nftables.Chain) ([]rule, error) {
	rules, err := r.chain(c)
	follow(rules, func(chain string) []rule {
		if chain == "" || err != nil {
			return nil
		}
		var led []rule
		led, err = r.chain(&nftables.Chain{Name: chain, Table: c.Table})
		return led
	})
	return rules, err
}

// chain are a chain's rules. One that is not understood is somebody's, and not plain.
func (r *reader) chain(c *nftables.Chain) ([]rule, error) {
	raw, err := r.rules(c.Table, c.Name)
	if err != nil {
		return nil, err
	}
	rules := make([]rule, len(raw))
	for i, one := range raw {
		rules[i] = decode(one)
	}
	return rules, nil
}

// decode understands what iptables-nft makes of a rule. Its -i and -o are a meta
// load of the interface's name and a comparison, which for an exact name includes
// the zero byte at its end.
func decode(raw *nftables.Rule) rule {
	r := rule{plain: true, handle: raw.Handle}
	if comment, ok := userdata.GetString(raw.UserData, userdata.TypeComment); ok {
		r.comment = strings.TrimRight(comment, "\x00")
	}
	var loaded *expr.Meta
	for _, e := range raw.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			loaded = e
			continue
		case *expr.Cmp:
			r.compare(loaded, e)
		case *expr.Match:
			if comment, ok := e.Info.(*xt.Comment); ok {
				r.comment = string(*comment)
			} else {
				r.plain = false
			}
		case *expr.Counter, *expr.Log:
		case *expr.Verdict:
			r.target = target(e)
		case *expr.Reject:
			r.target = "REJECT" // nft's own, in a table that iptables has made
		case *expr.Target:
			r.target, r.plain = e.Name, r.plain && e.Name == "REJECT"
		default:
			r.plain = false
		}
		loaded = nil
	}
	return r
}

// compare takes in that what was loaded must be as e says.
func (r *rule) compare(loaded *expr.Meta, e *expr.Cmp) {
	name, rest, exact := strings.Cut(string(e.Data), "\x00")
	exact = exact && strings.Trim(rest, "\x00") == "" && e.Op == expr.CmpOpEq
	switch {
	case loaded != nil && exact && loaded.Key == expr.MetaKeyIIFNAME:
		r.in = name
	case loaded != nil && exact && loaded.Key == expr.MetaKeyOIFNAME:
		r.out = name
	default:
		r.plain = false
	}
}

func target(v *expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictAccept:
		return "ACCEPT"
	case expr.VerdictDrop:
		return "DROP"
	case expr.VerdictReturn:
		return "RETURN"
	}
	return v.Chain
}
