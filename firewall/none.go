package firewall

import (
	"context"
	"errors"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// none stands where no firewall was chosen. It makes nothing, and says what it would be
// needed for that nobody else does; what another one left is Retired's, except that Remove
// takes all of it.
type none struct{ firewall *Firewall }

var _ backend = none{}

// errNoSCTP says why a port is not published.
var errNoSCTP = errors.New("SCTP is published by a firewall alone, and there is none: use --firewall=" + string(Auto))

// Apply reports ports that nobody serves.
func (none) Apply(_ context.Context, have, want *plan.Plan) error {
	var failed []error
	unserved(have, want, func(owner plan.Owner, h plan.Held) {
		failed = append(failed, &plan.ObjectError{Owner: owner, Object: "port " + h.String(), Err: errNoSCTP})
	})
	return errors.Join(failed...)
}

// Check reports the same.
func (none) Check(_ context.Context, want *plan.Plan) ([]plan.Drift, error) {
	var all []plan.Drift
	unserved(nil, want, func(owner plan.Owner, h plan.Held) {
		all = append(all, plan.Drift{Owner: owner, Object: "port " + h.String(), Field: "published", Want: "by a firewall", Got: "none"})
	})
	return all, nil
}

// Left finds nothing: there never was anything.
func (none) Left(context.Context) ([]plan.Drift, error) { return nil, nil }

// Remove takes away what any firewall of ours has left.
func (n none) Remove(ctx context.Context) error { return n.firewall.removeUnchosen(ctx) }

// unserved are the ports of SCTP of endpoints in which two plans differ: the proxy speaks
// none.
func unserved(have, want *plan.Plan, each func(plan.Owner, plan.Held)) {
	if have == nil {
		have = &plan.Plan{}
	}
	for n := range tree.Diff(have.Networks, want.Networks) {
		for e := range plan.DiffEndpoints(n.Old, n.New) {
			if e.New == nil {
				continue
			}
			for _, h := range e.New.Ports {
				if h.Proto == spec.SCTP {
					each(plan.Owner{Network: n.Key, Endpoint: e.Key}, h)
				}
			}
		}
	}
}
