package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Publish makes what a port map asks for the published ports of an endpoint, all of it or
// nothing. Numbers are chosen, reserved and published in one step, so that nobody is in
// between who would like the same.
func (e *Engine) Publish(ctx context.Context, network, endpoint spec.ID, m spec.PortMap) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	owner := plan.Owner{Network: network, Endpoint: endpoint}
	finder, err := e.finder(owner, m)
	if err != nil {
		return err
	}
	err = e.do(ctx, func(s *spec.State) error {
		ports, err := s.Choose(network, endpoint, m, finder)
		if err != nil {
			return err
		}
		return s.Publish(network, endpoint, ports, m.OnlyIPv4)
	})
	if finder != nil {
		e.search = finder.Start
	}
	if err != nil && finder != nil {
		e.reserver.Release(owner)
	}
	return err
}

// finder is what the wishes of a port map are fulfilled with; nil if it has none.
func (e *Engine) finder(owner plan.Owner, m spec.PortMap) (*spec.Finder, error) {
	if len(m.Wishes) == 0 {
		return nil, nil
	}
	if e.reserver == nil {
		return nil, fmt.Errorf("choose a port: %w: nothing here can reserve one", spec.ErrInvalid)
	}
	ephemeral, err := e.reserver.Ephemeral()
	if err != nil {
		return nil, fmt.Errorf("read the host's ephemeral ports: %w", err)
	}
	return &spec.Finder{
		Ephemeral: ephemeral,
		Start:     e.search,
		Reserve: func(ports []spec.Port) error {
			err := e.reserver.Reserve(owner, ports)
			if errors.Is(err, syscall.EADDRINUSE) {
				return takenError{err}
			}
			return err
		},
	}, nil
}

// takenError says to spec that somebody else on the host has a port.
type takenError struct{ cause error }

func (e takenError) Error() string   { return e.cause.Error() }
func (e takenError) Unwrap() []error { return []error{e.cause, spec.ErrInUse} }
