package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Publish makes what a port map asks for the published ports of an endpoint, all of it or
// nothing. Numbers are chosen, reserved and published in one step, so that nobody is in
// between who would like the same. A port that somebody else on the host has is refused
// before anything is saved.
func (e *Engine) Publish(ctx context.Context, network, endpoint spec.ID, m spec.PortMap) error {
	r := &reservation{Reserver: e.reserver, owner: plan.Owner{Network: network, Endpoint: endpoint}}
	defer r.release()
	return e.Do(ctx, network, func(s *spec.State) error {
		finder, err := e.finder(r, m)
		if err != nil {
			return err
		}
		ports, err := s.Choose(network, endpoint, m, finder)
		e.search = finder.Start
		if err != nil {
			return err
		}
		return s.Publish(network, endpoint, ports, m.OnlyIPv4)
	})
}

// reservation is what one call has reserved. Another one for the same endpoint may be under
// way, and keeps what it has.
type reservation struct {
	Reserver
	owner plan.Owner
	all   []func()
}

func (r *reservation) reserve(ports []spec.Port) error {
	release, err := r.Reserve(r.owner, ports)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return takenError{err}
	case err == nil:
		r.all = append(r.all, release)
	}
	return err
}

func (r *reservation) release() {
	for _, release := range r.all {
		release()
	}
}

// finder is what a port map is fulfilled with. mu is held.
func (e *Engine) finder(r *reservation, m spec.PortMap) (*spec.Finder, error) {
	f := &spec.Finder{Start: e.search, Reserve: r.reserve}
	if len(m.Wishes) == 0 {
		return f, nil
	}
	var err error
	if f.Ephemeral, err = e.reserver.Ephemeral(); err != nil {
		return nil, fmt.Errorf("read the host's ephemeral ports: %w", err)
	}
	if n := len(f.Ephemeral); f.Start == 0 && n > 0 {
		first, last := int(f.Ephemeral[0].First), int(f.Ephemeral[n-1].Last)
		f.Start = uint16(first + rand.IntN(last-first+1))
	}
	return f, nil
}

// takenError says to spec that somebody else on the host has a port.
type takenError struct{ cause error }

func (e takenError) Error() string   { return e.cause.Error() }
func (e takenError) Unwrap() []error { return []error{e.cause, spec.ErrInUse} }
