package engine

import (
	"errors"

	"github.com/drawbridge-net/drawbridge/plan"
)

// blame keeps of a layer's errors those that fail the change from before to after:
// errors on objects that it adds or alters, and errors that name no object at all.
// Errors on objects that it takes away or does not touch are left out, so that one
// container never pays for another's trouble and a removal never jams Docker.
func blame(err error, before, after *plan.Plan) error {
	var kept []error
	for _, leaf := range leaves(err) {
		o := (*plan.ObjectError)(nil)
		if !errors.As(leaf, &o) || touched(o.Owner, before, after) {
			kept = append(kept, leaf)
		}
	}
	return errors.Join(kept...)
}

// touched reports whether after has the owner, and differently from before.
func touched(owner plan.Owner, before, after *plan.Plan) bool {
	if before == nil || after == nil || owner == (plan.Owner{}) {
		return false
	}
	var old, now *plan.Network
	old, _ = before.Networks.Get(owner.Network)
	now, _ = after.Networks.Get(owner.Network)
	switch {
	case now == nil || old == now:
		return false
	case owner.Endpoint == "":
		return old == nil || old.Bridge != now.Bridge || old.Zone != now.Zone
	case old == nil:
		return true
	}
	a, _ := old.Endpoints.Get(owner.Endpoint)
	b, _ := now.Endpoints.Get(owner.Endpoint)
	return b != nil && a != b
}

// leaves takes apart what errors.Join put together.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, leaves(e)...)
	}
	return all
}
