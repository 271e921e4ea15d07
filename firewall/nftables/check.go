package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// tries bounds how often the table is read again because somebody changed the
// ruleset meanwhile.
const tries = 5

// standing is what stands in the kernel.
type standing struct {
	// drift is where rules, chains and sets are not exactly ours.
	drift    []plan.Drift
	elements map[element]bool
}

// Check reports where the table differs from want.
func (f *Firewall) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	s, err := f.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tableObject, err)
	}
	if s.elements == nil {
		return s.drift, nil
	}
	return append(s.drift, f.table.drift(s.change(elements(want)))...), nil
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
func (t *table) drift(c change) []plan.Drift {
	type place struct{ set, key string }
	found := map[place]*plan.Drift{}
	at := func(e element) *plan.Drift {
		p := place{e.set, t.keyText(e)}
		if found[p] == nil {
			found[p] = &plan.Drift{Object: "element " + p.set + " " + p.key, Field: "value"}
		}
		return found[p]
	}
	for e, owner := range c.add {
		d := at(e)
		d.Owner, d.Want = owner, t.valueText(e)
	}
	for e := range c.remove {
		at(e).Got = t.valueText(e)
	}
	var all []plan.Drift
	for _, d := range found {
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b plan.Drift) int { return strings.Compare(a.Object, b.Object) })
	return all
}

// look reads the whole table, again if the ruleset changed on the way.
func (f *Firewall) look(ctx context.Context) (*standing, error) {
	var s *standing
	err := f.with(ctx, func(c *conn) error {
		for range tries {
			before, _, err := c.generation()
			if err != nil {
				return err
			}
			read, readErr := c.read(f.table)
			after, _, err := c.generation()
			if err != nil {
				return errors.Join(readErr, err)
			}
			if before == after {
				s = read
				return readErr
			}
		}
		return errors.New("the ruleset changes faster than it can be read")
	})
	return s, err
}

func (c *conn) read(t *table) (*standing, error) {
	s := &standing{}
	_, err := c.nft.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		s.note(tableObject, "present", "yes", "no")
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.elements = map[element]bool{}
	if err := c.readSets(t, s); err != nil {
		return nil, err
	}
	return s, c.readChains(t, s)
}

func (s *standing) note(object, field, want, got string) {
	if want != got {
		s.drift = append(s.drift, plan.Drift{Object: object, Field: field, Want: want, Got: got})
	}
}

func (c *conn) readSets(t *table, s *standing) error {
	sets, err := c.nft.GetSets(c.table)
	if err != nil {
		return err
	}
	there := map[string]*nftables.Set{}
	for _, set := range sets {
		there[set.Name] = set
		if t.sets[set.Name] == nil {
			s.note("set "+set.Name, "type", "", set.KeyType.Name)
		}
	}
	for _, want := range t.order {
		got := there[want.name]
		if got == nil {
			s.note("set "+want.name, "type", describe(c.set(want)), "")
			continue
		}
		s.note("set "+want.name, "type", describe(c.set(want)), describe(got))
		raw, err := c.nft.GetSetElements(got)
		if err != nil {
			return fmt.Errorf("set %s: %w", want.name, err)
		}
		for _, e := range want.decode(raw) {
			s.elements[e] = true
		}
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
	chains, err := c.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
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
		if got == nil {
			s.note("chain "+want.name, "hook", hook(c.chain(want)), "")
			continue
		}
		s.note("chain "+want.name, "hook", hook(c.chain(want)), hook(got))
		rules, err := c.nft.GetRules(c.table, got)
		if err != nil {
			return fmt.Errorf("chain %s: %w", want.name, err)
		}
		s.compareRules(want, rules)
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		s.note("chain "+name, "hook", "", hook(there[name]))
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

func (s *standing) compareRules(want chain, got []*nftables.Rule) {
	object := "chain " + want.name
	for i := range max(len(want.rules), len(got)) {
		field := fmt.Sprintf("rule %d", i+1)
		switch {
		case i >= len(got):
			s.note(object, field, want.rules[i].text, "")
		case i >= len(want.rules):
			s.note(object, field, "", "another rule")
		case !want.rules[i].equal(got[i]):
			s.note(object, field, want.rules[i].text, "another rule")
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
