package engine

import (
	"errors"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// blame keeps of a layer's errors those that fail the change from before to after:
// errors on objects that it adds or alters, and errors that name no object at all.
// Errors on objects that it takes away or does not touch are left out, so that one
// container never pays for another's trouble and a removal never jams Docker.
func blame(err error, before, after *plan.Plan) error {
	var kept []error
	for _, leaf := range plan.Leaves(err) {
		if owner, named := ownerOf(leaf); !named || touched(owner, before, after) {
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

// onlyOfObjects reports whether each error, if any, names its object.
func onlyOfObjects(err error) bool {
	return !slices.ContainsFunc(plan.Leaves(err), func(leaf error) bool {
		_, named := ownerOf(leaf)
		return !named
	})
}

// onlyOfNetworks reports whether each error, if any, is a network's or an endpoint's.
func onlyOfNetworks(err error) bool {
	return !slices.ContainsFunc(plan.Leaves(err), func(leaf error) bool {
		owner, _ := ownerOf(leaf)
		return owner == plan.Owner{}
	})
}

// ownerOf is whose the object is that an error names, if it names one.
func ownerOf(leaf error) (owner plan.Owner, named bool) {
	o := (*plan.ObjectError)(nil)
	if !errors.As(leaf, &o) {
		return plan.Owner{}, false
	}
	return o.Owner, true
}

// untouched are those drifts on objects that before and after share: nobody looked at
// them for this change, so they are as true as they were. A network that neither has came
// with another change.
func untouched(drift []plan.Drift, before, after *plan.Plan) []plan.Drift {
	var kept []plan.Drift
	for _, d := range drift {
		old, _ := before.Networks.Get(d.Owner.Network)
		now, _ := after.Networks.Get(d.Owner.Network)
		if old != now && (old == nil || now == nil || touched(d.Owner, before, after) || !has(now, d.Owner.Endpoint)) {
			continue
		}
		kept = append(kept, d)
	}
	return kept
}

// has reports whether a network has an endpoint. Every one has none.
func has(n *plan.Network, endpoint spec.ID) bool {
	_, there := n.Endpoints.Get(endpoint)
	return there || endpoint == ""
}

// drifts makes Drift of what a layer could not do.
func drifts(err error) []plan.Drift {
	var all []plan.Drift
	for _, leaf := range plan.Leaves(err) {
		d := plan.Drift{Object: "host", Field: "apply", Want: "done", Got: leaf.Error()}
		if o := (*plan.ObjectError)(nil); errors.As(leaf, &o) {
			d.Owner, d.Object, d.Got = o.Owner, o.Object, o.Err.Error()
		}
		all = append(all, d)
	}
	return all
}

// merge adds drifts, in the place of older ones on the same objects.
func merge(old, added []plan.Drift) []plan.Drift {
	same := func(d plan.Drift) bool {
		return slices.ContainsFunc(added, func(a plan.Drift) bool { return a.Owner == d.Owner && a.Object == d.Object })
	}
	return append(slices.DeleteFunc(slices.Clone(old), same), added...)
}
