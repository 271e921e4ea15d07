package firewall

import (
	"context"
	"errors"
	"fmt"

	"github.com/drawbridge-net/drawbridge/plan"
)

// Apply makes the chosen firewall match want, and remembers whether it stands.
func (f *Firewall) Apply(ctx context.Context, have, want *plan.Plan) error {
	err := f.backend.Apply(ctx, have, want)
	// A difference that could be made says nothing of the rest.
	if stands := harmsSingleOwners(err); have == nil || !stands {
		f.stands.Store(stands)
	}
	return err
}

// harmsSingleOwners reports whether each error, if any, is of a network or an endpoint:
// what all have in common stands.
func harmsSingleOwners(err error) bool {
	for _, leaf := range plan.Leaves(err) {
		o := (*plan.ObjectError)(nil)
		if !errors.As(leaf, &o) || o.Owner == (plan.Owner{}) {
			return false
		}
	}
	return true
}

// Behind is a layer that relies on the drops: it opens what they guard, or takes away
// others'. Until they stand it changes nothing, and says so.
func (f *Firewall) Behind(what string, l Layer) Layer { return behind{l, f, what} }

type behind struct {
	Layer
	firewall *Firewall
	what     string
}

func (b behind) Apply(ctx context.Context, have, want *plan.Plan) error {
	if !b.firewall.stands.Load() {
		return &plan.ObjectError{Object: b.what, Err: fmt.Errorf("left as found until %s stands", b.firewall.Name)}
	}
	return b.Layer.Apply(ctx, have, want)
}
