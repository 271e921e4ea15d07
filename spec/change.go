package spec

import (
	"fmt"
	"slices"

	"github.com/drawbridge-net/drawbridge/tree"
)

// Revert takes the change from before to after out of a State in which others may have
// been made since. What it took away and somebody else has by now stays away.
func (s *State) Revert(before, after State) {
	for n := range tree.Diff(before.Networks, after.Networks) {
		switch {
		case n.Old == nil:
			s.RemoveNetwork(n.Key)
			continue
		case n.New == nil:
			s.try(func(t *State) error { return t.AddNetwork(n.Old) })
			continue
		}
		for ep := range tree.Diff(n.Old.Endpoints, n.New.Endpoints) {
			s.revertEndpoint(n.Key, ep)
		}
	}
}

func (s *State) revertEndpoint(network ID, c tree.Change[ID, *Endpoint]) {
	if c.New == nil {
		s.restore(network, c.Old)
		return
	}
	_, now, err := s.Endpoint(network, c.Key)
	if err != nil {
		return // somebody else has removed it
	}
	s.RemoveEndpoint(network, c.Key)
	if c.Old != nil {
		s.restore(network, now.without(c.Old, c.New))
	}
}

// without is an endpoint as it would be had it never become another; what was changed once
// more since stays.
func (e *Endpoint) without(old, changed *Endpoint) *Endpoint {
	less := *e
	if e.Sandbox == changed.Sandbox {
		less.Sandbox = old.Sandbox
	}
	if slices.Equal(e.Ports, changed.Ports) {
		less.Ports, less.OnlyIPv4 = old.Ports, old.OnlyIPv4
	}
	if slices.Equal(e.Open, changed.Open) {
		less.Open = old.Open
	}
	if e.IPv6 == changed.IPv6 {
		less.IPv6 = old.IPv6
	}
	return &less
}

// restore adds an endpoint as it was, without its ports if it cannot have them.
func (s *State) restore(network ID, ep *Endpoint) {
	if s.try(func(t *State) error { return t.AddEndpoint(network, ep) }) {
		return
	}
	bare := *ep
	bare.Ports, bare.OnlyIPv4 = nil, false
	s.try(func(t *State) error { return t.AddEndpoint(network, &bare) })
}

// try makes a change if it is no error, and reports whether it did.
func (s *State) try(change func(*State) error) bool {
	next := *s
	if change(&next) != nil {
		return false
	}
	*s = next
	return true
}

// A Change leads from one State to another.
type Change struct{ Before, After State }

// Succeeds reports whether a change takes something that an earlier one gave up: a port, a
// subnet, the name of a bridge. The host may still have it as it was.
func (c Change) Succeeds(earlier Change) bool {
	for n := range tree.Diff(c.Before.Networks, c.After.Networks) {
		if n.New == nil {
			continue
		}
		var had tree.Map[ID, *Endpoint]
		if n.Old != nil {
			had = n.Old.Endpoints
		} else if earlier.Before.checkOthers(n.New) != nil && earlier.After.checkOthers(n.New) == nil {
			return true
		}
		for ep := range tree.Diff(had, n.New.Endpoints) {
			if ep.New != nil && earlier.gaveUp(ep.New.Ports) {
				return true
			}
		}
	}
	return false
}

// OnlyRemoves reports whether networks and endpoints go, and nothing else comes of the change.
func (c Change) OnlyRemoves() bool {
	goes := false
	for n := range tree.Diff(c.Before.Networks, c.After.Networks) {
		if n.New == nil {
			goes = true
			continue
		}
		var had tree.Map[ID, *Endpoint]
		if n.Old != nil {
			had = n.Old.Endpoints
		}
		removed := 0
		for ep := range tree.Diff(had, n.New.Endpoints) {
			if ep.New != nil {
				return false
			}
			removed++
		}
		if removed == 0 {
			return false // it is the network that has come, or become another one
		}
		goes = true
	}
	return goes
}

// Missing names the first of those that the change adds or alters and a State lacks, or whose
// ports it publishes and who is in no container there; nil if there is none.
func (c Change) Missing(s State) error {
	for n := range tree.Diff(c.Before.Networks, c.After.Networks) {
		if n.New == nil {
			continue
		}
		if _, err := s.Network(n.Key); err != nil {
			return err
		}
		var had tree.Map[ID, *Endpoint]
		if n.Old != nil {
			had = n.Old.Endpoints
		}
		for ep := range tree.Diff(had, n.New.Endpoints) {
			if err := s.has(n.Key, ep.New); err != nil {
				return err
			}
		}
	}
	return nil
}

// has names an endpoint that is not here, or not in its container; nil wants nothing.
func (s *State) has(network ID, wanted *Endpoint) error {
	if wanted == nil {
		return nil
	}
	_, ep, err := s.Endpoint(network, wanted.ID)
	if err == nil && ep.Sandbox == "" && wanted.Sandbox != "" && len(wanted.Ports) > 0 {
		err = fmt.Errorf("endpoint %s of network %s: %w: it is in no container", wanted.ID.Short(), network.Short(), ErrInvalid)
	}
	return err
}

// gaveUp reports whether a change made any of the ports free.
func (c Change) gaveUp(ports []Port) bool {
	for _, p := range ports {
		if c.Before.holder(p) != nil && c.After.holder(p) == nil {
			return true
		}
	}
	return false
}
