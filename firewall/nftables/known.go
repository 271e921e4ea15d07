package nftables

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// known is what the tables were seen to be, to the letter. As long as it can be proven
// that nobody but us has changed them since, they need not be read.
type known struct {
	plan   *plan.Plan
	stands []stand
	// generation is that of the ruleset then, and one more for each transaction of ours.
	generation uint32
	since      time.Time
}

// proven is how long a proof is believed. It has no hole that we know of.
const proven = 5 * time.Minute

// sure reports whether the tables are those of known. They are if they are the same tables
// and still our own socket's, which nobody else can change; or if there was no
// transaction in the ruleset but ours.
func (f *Firewall) sure(c *conn) (bool, error) {
	if f.known == nil || time.Since(f.known.since) > proven {
		return false, nil
	}
	var stands []stand
	for _, t := range f.tables() {
		s, err := c.find(t)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		stands = append(stands, s)
	}
	if !slices.Equal(stands, f.known.stands) {
		return false, nil
	}
	if c.owns(stands, f.tables()) {
		return true, nil
	}
	now, _, err := c.generation()
	return err == nil && now == f.known.generation, err
}

// owns reports whether all tables are there and this socket's.
func (c *conn) owns(stands []stand, tables []*table) bool {
	return len(stands) == len(tables) && !slices.ContainsFunc(stands, func(s stand) bool {
		return s.flags != flagsOurs || s.owner != c.port
	})
}

// followed takes note of a transaction of ours that led from one plan to another.
func (f *Firewall) followed(have, want *plan.Plan) {
	if f.known == nil {
		return
	}
	if !difference(f.known.plan, have).empty() {
		f.known = nil // it led from something else
		return
	}
	f.known.plan = want
	f.known.generation++
}
