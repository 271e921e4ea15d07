package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// trialName is that of the tables of a trial, which nobody ever sees.
const trialName = "drawbridge-trial"

// Try has the kernel take all that we would give it, under another name and with an
// element in each set, and delete it in the same transaction. So it tells, by no
// version, whether this kernel can be our firewall; it leaves nothing behind. What it
// returns is why not: ErrBridgeless if only the table of family bridge is refused.
func (f *Firewall) Try(ctx context.Context) error {
	if err := f.decide(ctx); err != nil {
		return err
	}
	trial := newRulesetIn(trialName)
	err := f.take(ctx, trial.specimens(), trial, trial.inet, trial.bridge)
	if errors.Is(err, unix.EOPNOTSUPP) && f.take(ctx, trial.specimens(), trial, trial.inet) == nil {
		return ErrBridgeless
	}
	if err != nil {
		return err
	}
	err = f.take(ctx, trial.overlapping(), trial, trial.inet)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case err == nil:
		return fmt.Errorf("the kernel knows no ranges in concatenations, as Linux before 5.6: %w", unix.EOPNOTSUPP)
	}
	return err
}

// take is one transaction that leaves nothing behind.
func (f *Firewall) take(ctx context.Context, elements map[element]plan.Owner, r *ruleset, tables ...*table) error {
	return f.with(ctx, func(c *conn) error {
		for _, t := range tables {
			if err := c.build(t, 0); err != nil {
				return err
			}
			of := map[element]plan.Owner{}
			for e, owner := range elements {
				if r.sets[e.set].table == t {
					of[e] = owner
				}
			}
			if err := send(r, of, c.scribe.SetAddElements); err != nil {
				return err
			}
		}
		for _, t := range tables {
			if err := c.table(unix.NFT_MSG_DELTABLE, t); err != nil {
				return err
			}
		}
		return c.commit()
	})
}

// specimens are an element for each set.
func (r *ruleset) specimens() map[element]plan.Owner {
	all := map[element]plan.Owner{}
	for _, s := range r.sets {
		all[s.specimen()] = plan.Owner{}
	}
	return all
}

func (s *set) specimen() element {
	e := element{set: s.name}
	for _, k := range s.key {
		first, last := k.specimen()
		e.key += first
		if s.interval {
			e.last += last
		}
	}
	for _, k := range s.value {
		first, _ := k.specimen()
		e.value += first
	}
	return e
}

// specimen is a range of what a part can be.
func (k kind) specimen() (first, last string) {
	switch k {
	case ifname:
		return rawName("none0"), rawName("none0")
	case addr4:
		p := netip.MustParsePrefix("192.0.2.0/24") // RFC 5737: for documentation
		return rawAddr(p.Addr()), rawAddr(lastOf(p))
	case addr6:
		p := netip.MustParsePrefix("2001:db8::/64") // RFC 3849
		return rawAddr(p.Addr()), rawAddr(lastOf(p))
	case protocol:
		return rawProto(spec.TCP), rawProto(spec.TCP)
	case service:
		return rawPort(1), rawPort(2)
	}
	panic(fmt.Sprintf("nftables: kind %d", k))
}

// overlapping are two ranges of which the second lies in the first. A kernel that passes
// over the end of a range, since it knows none in concatenations, takes them for two
// different keys; all others refuse the second (EEXIST).
func (r *ruleset) overlapping() map[element]plan.Owner {
	whole := r.sets[mapRangesAny+"4"].specimen()
	part := whole
	part.key = part.last
	return map[element]plan.Owner{whole: {}, part: {}}
}
