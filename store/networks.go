package store

import (
	"errors"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Networks remembers a spec.State: networks in state.db; their endpoints, with
// sandbox and ports, in boot.db.
type Networks struct{ store *Store }

// Networks is the view for the engine.
func (s *Store) Networks() Networks { return Networks{s} }

const (
	networkBucket  = "network"
	endpointBucket = "endpoint"
)

// endpoint is the record of one.
type endpoint struct {
	Network spec.ID
	spec.Endpoint
}

func endpointKey(network, id spec.ID) string { return string(network) + "/" + string(id) }

// Load builds the State anew by spec's rules. What they refuse is left out and
// stays in the file; Notices tells.
func (n Networks) Load() (spec.State, error) {
	var state spec.State
	networks, err := load[spec.Network](n.store, n.store.state, networkBucket)
	if err != nil {
		return state, err
	}
	endpoints, err := load[endpoint](n.store, n.store.boot, endpointBucket)
	if err != nil {
		return state, err
	}
	for _, network := range networks {
		n.try(&state, n.store.state, "network "+string(network.ID), func(s *spec.State) error { return s.AddNetwork(&network) })
	}
	strays := 0
	for _, ep := range endpoints {
		if _, err := state.Network(ep.Network); err != nil {
			strays++
			continue
		}
		n.try(&state, n.store.boot, "endpoint "+string(ep.ID), func(s *spec.State) error { return s.AddEndpoint(ep.Network, &ep.Endpoint) })
	}
	if strays > 0 {
		n.store.notice("%s: %d endpoints are left out: their networks are gone", n.store.boot.path, strays)
	}
	return state, nil
}

// try changes the state, or after an error does not.
func (n Networks) try(state *spec.State, from *file, object string, add func(*spec.State) error) {
	next := *state
	if err := add(&next); err != nil {
		n.store.notice("%s: %s is left out: %v", from.path, object, err)
		return
	}
	*state = next
}

// Save replaces before, which is what the files hold, by after: both or neither.
//
// state.db goes first, so what a crash leaves between the two files is endpoints
// whose network is gone. Load leaves them out: they were going too.
func (n Networks) Save(before, after spec.State) error {
	durable, volatile := difference(before, after)
	err := n.store.save(durable, volatile)
	if errors.Is(err, errHalf) {
		undo, _ := difference(after, before)
		err = errors.Join(err, n.store.state.write(undo))
	}
	return err
}

// difference is what must be written into each file.
func difference(before, after spec.State) (durable, volatile edits) {
	for c := range tree.Diff(before.Networks, after.Networks) {
		switch {
		case c.New == nil:
			durable.delete(networkBucket, string(c.Key))
		case c.Old == nil || !c.Old.SameSettings(c.New):
			durable.put(networkBucket, string(c.Key), c.New)
		}
		for ep := range tree.Diff(endpointsOf(c.Old), endpointsOf(c.New)) {
			if ep.New == nil {
				volatile.delete(endpointBucket, endpointKey(c.Key, ep.Key))
				continue
			}
			volatile.put(endpointBucket, endpointKey(c.Key, ep.Key), endpoint{c.Key, *ep.New})
		}
	}
	return durable, volatile
}

func endpointsOf(n *spec.Network) tree.Map[spec.ID, *spec.Endpoint] {
	if n == nil {
		return tree.Map[spec.ID, *spec.Endpoint]{}
	}
	return n.Endpoints
}
