package engine

import (
	"fmt"
	"sync"

	"github.com/drawbridge-net/drawbridge/spec"
)

// disk is the store, and what it holds.
type disk struct {
	store Store

	mu    sync.Mutex // one commit at a time: those who wait for it are saved by the next
	saved spec.State // not the present State after a failure
	turn  int        // the newest of the changes that are in it
}

func (d *disk) load() (spec.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	state, err := d.store.Load()
	d.saved = state
	return state, err
}

// write makes the store hold a State, whatever it holds now.
func (d *disk) write(state spec.State, turn int) error {
	if d.saved.Networks != state.Networks {
		if err := d.store.Save(d.saved, state); err != nil {
			return fmt.Errorf("save: %w", err)
		}
	}
	d.saved, d.turn = state, turn
	return nil
}

// save has the store hold the present State, unless it does so since the change was
// planned.
func (e *Engine) save(m *move) error {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	if e.disk.turn >= m.turn {
		return nil
	}
	e.mu.Lock()
	state, turn := e.Now().State, e.turn
	e.mu.Unlock()
	err := e.disk.write(state, turn)
	if err != nil && turn != m.turn {
		// It may be another change that does not fit.
		alone := e.disk.saved
		for _, id := range m.networks {
			alone.Networks = alone.Networks.As(m.after.State.Networks, id)
		}
		return e.disk.write(alone, e.disk.turn)
	}
	return err
}

// forget has the store hold nothing.
func (e *Engine) forget() error {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	return e.disk.write(spec.State{}, e.disk.turn)
}
