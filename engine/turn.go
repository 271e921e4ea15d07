package engine

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// move is one change on its way to the host.
type move struct {
	turn          int       // in which it was planned: the higher, the newer
	networks      []spec.ID // that it changes
	before, after Snapshot
	host          *plan.Plan        // what concerns the host as a whole is taken from here
	ahead         []<-chan struct{} // what it waits for
	done          chan struct{}     // closed when it has been made, or taken back
	lost          error             // what it relies on came to nothing
	linksFollow   bool              // its links are taken away when it has been answered
}

// await waits until all changes of its networks that were planned before it are made.
func (m *move) await() {
	for _, turn := range m.ahead {
		<-turn
	}
}

// blamed are those of a layer's errors that fail the change.
func (m *move) blamed(err error) error { return blame(err, m.before.Plan, m.after.Plan) }

func (m *move) change() spec.Change { return spec.Change{Before: m.before.State, After: m.after.State} }

// mayBeFollowed reports whether the links of a change may go after its answer: if things only
// go, and nobody can miss them who does not wait for our turn. Others may want a bridge of a
// name that a person chose, a container that loses its network would have links and no rules,
// and whoever comes next may need what is being put back of the host's own links.
func (m *move) mayBeFollowed() bool {
	for n := range tree.Diff(m.before.State.Networks, m.after.State.Networks) {
		if n.New == nil && (n.Old.Bridge != "" || n.Old.Endpoints.Len() > 0) {
			return false
		}
	}
	return m.change().OnlyRemoves() && reflect.DeepEqual(m.before.Plan.Uplinks, m.after.Plan.Uplinks)
}

// without takes another change, which came to nothing, out of what was planned on top of
// it.
func (m *move) without(other *move) {
	change := m.change()
	for _, s := range []*Snapshot{&m.before, &m.after} {
		state := s.State
		state.Revert(other.before.State, other.after.State)
		s.Plan = s.Plan.Next(s.State, state, s.Plan.Host)
		s.State = state
	}
	if err := change.Missing(m.after.State); err != nil && m.lost == nil {
		m.lost = fmt.Errorf("%w: a change that this one relies on has failed", err)
	}
}

// touchedNetworks are those in which two plans differ.
func touchedNetworks(before, after *plan.Plan) []spec.ID {
	var all []spec.ID
	for c := range tree.Diff(before.Networks, after.Networks) {
		all = append(all, c.Key)
	}
	return all
}

// turns are the changes under way.
type turns struct {
	last map[spec.ID]<-chan struct{} // of each network, what its newest change closes when it is done
	all  map[*move]struct{}          // those that may not be done yet
}

func newTurns() turns { return turns{map[spec.ID]<-chan struct{}{}, map[*move]struct{}{}} }

// enter has a change wait for those of the networks that came before it, and for those that
// give up what it takes. Whatever comes to the networks waits for it.
func (t turns) enter(m *move, networks []spec.ID) {
	m.done = make(chan struct{})
	slices.Sort(networks)
	for _, id := range slices.Compact(networks) {
		if id == "" {
			continue
		}
		if turn := t.pending(id); turn != nil {
			m.ahead = append(m.ahead, turn)
		}
		t.last[id] = m.done
	}
	for earlier := range t.all {
		switch {
		case isClosed(earlier.done):
			delete(t.all, earlier)
			for _, id := range earlier.networks {
				t.pending(id)
			}
		case m.change().Succeeds(earlier.change()):
			m.ahead = append(m.ahead, earlier.done)
		}
	}
	t.all[m] = struct{}{}
}

// retract takes a change, which came to nothing, out of those of its networks that come
// later.
func (t turns) retract(m *move) {
	shared := func(id spec.ID) bool { return slices.Contains(m.networks, id) }
	for later := range t.all {
		if later.turn > m.turn && slices.ContainsFunc(later.networks, shared) {
			later.without(m)
		}
	}
}

// awaits reports whether a later change of a network waits for this one.
func (t turns) awaits(m *move, id spec.ID) bool {
	for later := range t.all {
		if later.turn > m.turn && slices.Contains(later.networks, id) && !isClosed(later.done) {
			return true
		}
	}
	return false
}

// pending is what a network waits for, nil for nothing.
func (t turns) pending(id spec.ID) <-chan struct{} {
	turn, ok := t.last[id]
	if ok && isClosed(turn) {
		delete(t.last, id)
		turn = nil
	}
	return turn
}

// underWay is what the changes that are not done close.
func (t turns) underWay() []<-chan struct{} {
	var all []<-chan struct{}
	for m := range t.all {
		all = append(all, m.done)
	}
	return all
}

// leaving are the bridges of networks that were removed and may still be there.
func (t turns) leaving() []string {
	var all []string
	for m := range t.all {
		if !m.linksFollow || isClosed(m.done) {
			continue
		}
		for c := range tree.Diff(m.before.Plan.Networks, m.after.Plan.Networks) {
			if c.New == nil {
				all = append(all, c.Old.Bridge.Name)
			}
		}
	}
	return all
}

// busy are the networks that are being changed.
func (t turns) busy() map[spec.ID]bool {
	all := map[spec.ID]bool{}
	for id, turn := range t.last {
		if !isClosed(turn) {
			all[id] = true
		}
	}
	return all
}

func isClosed(turn <-chan struct{}) bool {
	select {
	case <-turn:
		return true
	default:
		return false
	}
}
