package firewalld

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Unbind is the layer that takes away our bindings that are not planned. It belongs
// ahead of the layer of our own firewall, whose drops must outlive them.
type Unbind struct{ Zones *Zones }

// Bind is the layer that binds what is planned. It belongs behind the layer of our own
// firewall, whose drops must stand before.
type Bind struct{ Zones *Zones }

// Apply unbinds what is not planned.
func (l Unbind) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have != nil && !lacks(have, want) {
		return nil
	}
	return l.Zones.apply(ctx, want, func(s step) bool { return s.do != bind })
}

// Check finds nothing: Bind's, which looks at the same bindings, does.
func (l Unbind) Check(context.Context, *plan.Plan) ([]plan.Drift, error) { return nil, nil }

// Remove does nothing: Bind's, which goes first, has unbound every bridge.
func (l Unbind) Remove(context.Context) error { return nil }

// Apply binds what is planned and in no zone.
func (l Bind) Apply(ctx context.Context, have, want *plan.Plan) error {
	if have != nil && !lacks(want, have) {
		return nil
	}
	return l.Zones.apply(ctx, want, func(s step) bool { return s.do == bind })
}

// Check reports bridges in no zone, and those that are still where we bound them and
// should not be. It returns no error, which would keep other layers from being asked.
func (l Bind) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	z := l.Zones
	z.mu.Lock()
	defer z.mu.Unlock()
	var all []plan.Drift
	err := z.steps(ctx, bridges(want), func(_ *bus, s step) error {
		if s.do != forget {
			all = append(all, s.drift())
		}
		return nil
	})
	if o := (*plan.ObjectError)(nil); errors.As(err, &o) {
		all = append(all, plan.Drift{Object: o.Object, Field: "zones", Want: "known", Got: o.Err.Error()})
	}
	return all, nil
}

// Remove unbinds every bridge that we bound.
func (l Bind) Remove(ctx context.Context) error {
	return l.Zones.apply(ctx, &plan.Plan{}, func(s step) bool { return s.do != bind })
}

// lacks reports whether to has not every bridge that from has. So a request that makes
// or removes no network costs no look.
func lacks(from, to *plan.Plan) bool {
	for d := range tree.Diff(from.Networks, to.Networks) {
		if d.Old != nil && (d.New == nil || d.New.Bridge.Name != d.Old.Bridge.Name) {
			return true
		}
	}
	return false
}

// planned are the networks by the name of their bridge.
type planned map[string]*plan.Network

// bridges are to be in a zone. Without a firewall of ours none is: a zone accepts all.
func bridges(p *plan.Plan) planned {
	all := planned{}
	if p.Host != nil && p.Host.NoFirewall {
		return all
	}
	for _, n := range p.Networks.All() {
		all[n.Bridge.Name] = n
	}
	return all
}

func (z *Zones) apply(ctx context.Context, want *plan.Plan, mine func(step) bool) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	wanted := bridges(want)
	z.planned.Store(&wanted)
	var failed []error
	err := z.steps(ctx, wanted, func(b *bus, s step) error {
		if !mine(s) {
			return nil
		}
		err := z.take(b, s)
		if isAway(err) || errors.Is(err, os.ErrDeadlineExceeded) {
			return err // so would be the next
		}
		if err != nil {
			failed = append(failed, &plan.ObjectError{Object: s.object(), Err: err})
		}
		return nil
	})
	return errors.Join(append(failed, err)...)
}

// steps looks and goes through what has to be done until one of it fails. Where no
// firewalld runs that is to forget: with it our bindings went.
func (z *Zones) steps(ctx context.Context, wanted planned, each func(*bus, step) error) error {
	noted, err := z.notes.Bound()
	if err != nil {
		return blameless(err)
	}
	if len(wanted) == 0 && len(noted) == 0 {
		z.warn(nil)
		return nil
	}
	left := 0
	there, err := z.converse(ctx, func(b *bus) error {
		seen, err := b.look()
		if err != nil {
			return err
		}
		z.warn(seen.warnings(wanted, noted))
		all := seen.steps(wanted, noted)
		for i, s := range all {
			if err := each(b, s); err != nil {
				left = len(all) - i
				return err
			}
		}
		return nil
	})
	if err != nil && left > 0 {
		err = fmt.Errorf("%d bridges have to wait: %w", left, err)
	}
	if there || err != nil {
		return blameless(err)
	}
	z.warn(z.unheard(wanted))
	for _, s := range new(sight).steps(wanted, noted) {
		if s.do == forget {
			err = errors.Join(err, each(nil, s))
		}
	}
	return err
}

// take makes one step. A note is there before its binding and goes after it, so that
// none is forgotten by a process that is killed in between.
func (z *Zones) take(b *bus, s step) error {
	switch s.do {
	case bind:
		if err := z.notes.Remember(s.bridge, s.zone); err != nil {
			return err
		}
		return b.bind(s.zone, s.bridge)
	case unbind:
		if err := b.unbind(s.zone, s.bridge); err != nil {
			return err
		}
	}
	return z.notes.Forget(s.bridge)
}
