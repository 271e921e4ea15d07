package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// tries bounds how often the tables are read again because somebody changed the
// ruleset meanwhile.
const tries = 5

// standing is what stands in the kernel.
type standing struct {
	// drift is where tables, rules, chains and sets are not exactly ours.
	drift []plan.Drift
	// absent says that a table is missing altogether.
	absent   bool
	elements map[element]bool

	stands     []stand // of the tables
	generation uint32
}

// Check reports where the tables differ from want.
func (f *Firewall) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	s, c, err := f.compare(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("look at nftables: %w", err)
	}
	if s.absent {
		return s.drift, nil
	}
	return append(s.drift, f.rules.drift(c)...), nil
}

// compare is what stands, and what would make the elements those that are wanted. It
// reads nothing where it is known what stands.
func (f *Firewall) compare(ctx context.Context, want *plan.Plan) (s *standing, c change, err error) {
	err = f.with(ctx, func(conn *conn) error {
		sure, err := f.sure(conn)
		if err != nil {
			return err
		}
		if sure {
			s, c = &standing{}, difference(f.known.plan, want)
			return nil
		}
		f.known = nil
		if s, err = f.look(conn); err != nil {
			return err
		}
		c = s.change(elements(want))
		// What a kernel without bridges refuses is in no transaction that could be followed.
		if len(s.drift) == 0 && c.empty() && !f.bridgeless.Load() {
			f.known = &known{plan: want, stands: s.stands, generation: s.generation, since: time.Now()}
		}
		return nil
	})
	return s, c, err
}

// change is what would make the elements those that are wanted.
func (s *standing) change(want map[element]plan.Owner) change {
	c := newChange()
	for e, owner := range want {
		if !s.elements[e] {
			c.add[e] = owner
		}
	}
	for e := range s.elements {
		if _, wanted := want[e]; !wanted {
			c.remove[e] = plan.Owner{}
		}
	}
	return c
}

// drift says the same to a person. A key with another value is one difference.
func (r *ruleset) drift(c change) []plan.Drift {
	type place struct{ set, key string }
	found := map[place]*plan.Drift{}
	at := func(e element) *plan.Drift {
		p := place{e.set, r.keyText(e)}
		if found[p] == nil {
			found[p] = &plan.Drift{Object: "element " + p.set + " " + p.key, Field: "value"}
		}
		return found[p]
	}
	for e, owner := range c.add {
		d := at(e)
		d.Owner, d.Want = owner, r.valueText(e)
	}
	for e := range c.remove {
		at(e).Got = r.valueText(e)
	}
	var all []plan.Drift
	for _, d := range found {
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b plan.Drift) int { return strings.Compare(a.Object, b.Object) })
	return all
}

// look reads both tables, again if somebody might have changed them on the way.
func (f *Firewall) look(c *conn) (*standing, error) {
	for range tries {
		before, _, err := c.generation()
		if err != nil {
			return nil, err
		}
		s, readErr := c.read(f.tables(), f.flags())
		after, _, err := c.generation()
		if err != nil {
			return nil, errors.Join(readErr, err)
		}
		if before == after || readErr == nil && c.owns(s.stands, f.tables()) {
			if readErr == nil {
				s.generation = after
			}
			return s, readErr
		}
	}
	return nil, errors.New("the ruleset changes faster than it can be read")
}

func (c *conn) read(tables []*table, flags uint32) (*standing, error) {
	s := &standing{elements: map[element]bool{}}
	for _, t := range tables {
		st, err := c.find(t)
		if errors.Is(err, unix.ENOENT) {
			s.absent = true
			s.note(t.String(), "present", "yes", "no")
			continue
		}
		if err == nil {
			s.stands = append(s.stands, st)
			s.noteStand(t, c.who(st), st.flags, flags)
			err = c.readSets(t, s)
		}
		if err == nil {
			err = c.readChains(t, s)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t, err)
		}
	}
	return s, nil
}

func (s *standing) note(object, field, want, got string) {
	if want != got {
		s.drift = append(s.drift, plan.Drift{Object: object, Field: field, Want: want, Got: got})
	}
}

// noteStand notes a table that anybody may change though nobody could, and one that was
// put to sleep.
func (s *standing) noteStand(t *table, owner string, got, want uint32) {
	if want&flagOwner != 0 || got&flagOwner != 0 {
		wanted := "nobody"
		if want&flagOwner != 0 {
			wanted = "drawbridge"
		}
		s.note(t.String(), "owner", wanted, owner)
	}
	if got&unix.NFT_TABLE_F_DORMANT != 0 {
		s.note(t.String(), "dormant", "no", "yes")
	}
}

func (c *conn) readSets(t *table, s *standing) error {
	sets, err := c.nft.GetSets(t.kernel)
	if err != nil {
		return err
	}
	there := map[string]*nftables.Set{}
	for _, set := range sets {
		there[set.Name] = set
	}
	for _, want := range t.sets {
		got := there[want.name]
		delete(there, want.name)
		object := t.label + "set " + want.name
		if got == nil {
			s.note(object, "type", describe(want.kernel()), "")
			continue
		}
		s.note(object, "type", describe(want.kernel()), describe(got))
		raw, err := c.nft.GetSetElements(got)
		if err != nil {
			return fmt.Errorf("set %s: %w", want.name, err)
		}
		for _, e := range want.decode(raw) {
			s.elements[e] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		s.note(t.label+"set "+name, "type", "", there[name].KeyType.Name)
	}
	return nil
}

// describe is a set's type, e.g. ipv4_addr . ifname interval.
func describe(s *nftables.Set) string {
	text := s.KeyType.Name
	if s.IsMap {
		text += " : " + s.DataType.Name
	}
	if s.Interval {
		text += " interval"
	}
	return text
}

func (c *conn) readChains(t *table, s *standing) error {
	chains, err := c.nft.ListChainsOfTableFamily(t.kernel.Family)
	if err != nil {
		return err
	}
	there := map[string]*nftables.Chain{}
	for _, ch := range chains {
		if ch.Table.Name == tableName {
			there[ch.Name] = ch
		}
	}
	for _, want := range t.chains {
		got := there[want.name]
		delete(there, want.name)
		object := t.label + "chain " + want.name
		if got == nil {
			s.note(object, "hook", hook(want.kernel(t)), "")
			continue
		}
		s.note(object, "hook", hook(want.kernel(t)), hook(got))
		rules, err := c.nft.GetRules(t.kernel, got)
		if err != nil {
			return fmt.Errorf("chain %s: %w", want.name, err)
		}
		s.compareRules(object, want.rules, rules)
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		s.note(t.label+"chain "+name, "hook", "", hook(there[name]))
	}
	return nil
}

// hook is where a chain hangs, e.g. filter 2 0 accept.
func hook(ch *nftables.Chain) string {
	if ch.Hooknum == nil || ch.Priority == nil || ch.Policy == nil {
		return "none"
	}
	policy := "accept"
	if *ch.Policy != nftables.ChainPolicyAccept {
		policy = "drop"
	}
	return fmt.Sprintf("%s %d %d %s", ch.Type, *ch.Hooknum, *ch.Priority, policy)
}

func (s *standing) compareRules(object string, want []rule, got []*nftables.Rule) {
	for i := range max(len(want), len(got)) {
		field := fmt.Sprintf("rule %d", i+1)
		switch {
		case i >= len(got):
			s.note(object, field, want[i].text, "")
		case i >= len(want):
			s.note(object, field, "", "another rule")
		case !want[i].equal(got[i]):
			s.note(object, field, want[i].text, "another rule")
		}
	}
}

// equal compares with a rule that was read back; counters have counted.
func (r rule) equal(got *nftables.Rule) bool {
	if len(r.exprs) != len(got.Exprs) || string(r.userData()) != string(got.UserData) {
		return false
	}
	for i, e := range got.Exprs {
		if _, counts := e.(*expr.Counter); counts {
			e = &expr.Counter{}
		}
		if !reflect.DeepEqual(r.exprs[i], e) {
			return false
		}
	}
	return true
}
