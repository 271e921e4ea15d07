package foreign

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/drawbridge-net/drawbridge/failpoint"
	"github.com/drawbridge-net/drawbridge/plan"
)

// atOnce bounds a transaction: from about 200 rules on its answers overrun the
// socket's buffer, which looks like a failure and is none.
const atOnce = 100

// forwardOf is FORWARD of iptables-nft.
func forwardOf(c plan.Chain) *nftables.Chain {
	family := nftables.TableFamilyIPv4
	if c.Family == 6 {
		family = nftables.TableFamilyIPv6
	}
	return &nftables.Chain{Name: forward, Table: &nftables.Table{Name: "filter", Family: family}}
}

// writeNFT makes steps on a chain that has these rules. What has been there before is
// named by its handle, so nobody who writes at the same time can move a place.
func writeNFT(conn *nftables.Conn, chain *nftables.Chain, rules []rule, steps []step) error {
	for some := range slices.Chunk(steps, atOnce) {
		for _, s := range some {
			if err := queue(conn, chain, rules, s); err != nil {
				return err
			}
			rules = s.do(rules)
		}
		if err := failpoint.Step("FORWARD", "write"); err != nil {
			return err
		}
		if err := conn.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// queue puts one step into the transaction. A new rule goes ahead of the next one
// that has a handle: those between are new and ours too, and their order is all one.
func queue(conn *nftables.Conn, chain *nftables.Chain, rules []rule, s step) error {
	if s.at == gone {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.identity() == s.rule.identity() })
		return conn.DelRule(&nftables.Rule{Table: chain.Table, Chain: chain, Handle: rules[i].handle})
	}
	added := &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: encode(s.rule)}
	if i := slices.IndexFunc(rules[s.at:], func(r rule) bool { return r.handle != 0 }); i >= 0 {
		added.Position = rules[s.at+i].handle
		conn.InsertRule(added)
	} else {
		conn.AddRule(added)
	}
	return nil
}

// encode writes an accept as iptables-nft does, so that it reads it back as such. Its
// comment is a match that matches everything.
func encode(r rule) []expr.Any {
	key, name := expr.MetaKeyIIFNAME, r.in
	if r.out != "" {
		key, name = expr.MetaKeyOIFNAME, r.out
	}
	comment := xt.Comment(r.comment)
	return []expr.Any{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ cmp eq reg 1 "dbr3f2a9c0d11ee\0" ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
		// [ match name comment rev 0 ]
		&expr.Match{Name: "comment", Info: &comment},
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ immediate reg 0 accept ]
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}
