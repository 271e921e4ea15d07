// Package firewalld has firewalld let through what is ours: its own chain rejects
// whatever leaves a zone, and no table of ours can overrule it, so each bridge is bound
// to a zone that accepts all. What a network forbids is held by our own firewall.
//
// It writes nothing permanent, never has firewalld reload, and leaves each interface
// where somebody else has bound it. Where no firewalld runs it does nothing.
package firewalld

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Socket is where the system bus listens.
const Socket = "/run/dbus/system_bus_socket"

// Notes remember, for the next process too, which bridge we bound to which zone: a
// binding cannot be marked, and one that is not noted is somebody else's.
type Notes interface {
	Bound() (map[string]string, error)
	Remember(bridge, zone string) error
	Forget(bridge string) error
}

// Zones binds our bridges. Create it with New; Unbind and Bind are its layers.
type Zones struct {
	// Warn, if set, is told of each of Warnings, once, and again if it went in between.
	Warn func(text string)

	socket   string
	notes    Notes
	patience time.Duration // for one conversation, however many answers it has
	pause    time.Duration // of Watch, before it looks anew for a bus that is not there

	// silent says that firewalld owes an answer, and that nobody shall wait for another
	// before it has given that one; owed has Watch wait for it.
	silent   atomic.Bool
	owed     chan struct{}
	planned  atomic.Pointer[planned]
	warnings atomic.Pointer[[]string]

	mu sync.Mutex // one conversation at a time
}

// patience is how long a request may be kept waiting by a firewalld that is busy, slow
// or hangs: a reload of a large one takes seconds. What is left then waits until Watch
// has had an answer, and goes on with as much patience: requests come in between.
const (
	patience = 2 * time.Second
	pause    = 5 * time.Second
)

// New makes Zones that speak to firewalld over the bus of this socket.
func New(socket string, notes Notes) *Zones {
	return &Zones{socket: socket, notes: notes, patience: patience, pause: pause, owed: make(chan struct{}, 1)}
}

// Warnings say what of our bridges firewalld rejects, as far as we know it, and what to
// do about it. They are as of the last Apply or Check.
func (z *Zones) Warnings() []string {
	if all := z.warnings.Load(); all != nil {
		return *all
	}
	return nil
}

func (z *Zones) warn(now []string) {
	before := z.Warnings()
	z.warnings.Store(&now)
	for _, text := range now {
		if z.Warn != nil && !slices.Contains(before, text) {
			z.Warn(text)
		}
	}
}

// errSilent says that firewalld is there and does not answer.
var errSilent = errors.New("no answer from firewalld over D-Bus")

// converse has a talk with firewalld and reports whether that is there at all. Where it
// is not, nothing has gone wrong.
func (z *Zones) converse(ctx context.Context, talk func(*bus) error) (there bool, err error) {
	if z.silent.Load() {
		return true, errSilent
	}
	b, err := dial(ctx, z.socket, z.patience)
	if err == nil {
		defer b.close()
		err = talk(b)
	}
	switch {
	case isAway(err):
		return false, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		z.silent.Store(true)
		select {
		case z.owed <- struct{}{}:
		default:
		}
		err = errSilent
	}
	return true, err
}

// blameless makes an error one of the host's, which fails no request: a firewalld that
// hangs must not keep containers from being started, and what they lack comes as soon as
// it answers.
func blameless(err error) error {
	if err == nil {
		return nil
	}
	return &plan.ObjectError{Object: "firewalld", Err: err}
}
