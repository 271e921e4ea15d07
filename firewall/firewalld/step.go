package firewalld

import (
	"fmt"
	"maps"
	"slices"

	"github.com/drawbridge-net/drawbridge/plan"
)

// The zones for our bridges. Our own is a file that is installed beside us, with a
// policy that lets others in where a network allows it; the two may not have one name.
// Without it there is always the built-in zone, which accepts what comes from its
// interfaces, and from others what was translated to them.
const (
	ownZone   = "drawbridge"
	ownPolicy = "drawbridge-in"
	builtIn   = "trusted"
)

// sight is what firewalld has at one moment.
type sight struct {
	zones    []string
	policies []string          // none where firewalld is older than 0.9
	bound    map[string]string // zones by interface
}

// zone is where a bridge that is nowhere shall be.
func (s *sight) zone() string {
	if slices.Contains(s.zones, ownZone) {
		return ownZone
	}
	return builtIn
}

// deed is what is done with a bridge.
type deed string

const (
	bind   deed = "bind"
	unbind deed = "unbind"
	forget deed = "forget" // its note alone: the binding is not there, or not ours any more
)

type step struct {
	do      deed
	bridge  string        // e.g. dbr3f2a9c0d11ee
	zone    string        // to which or from which
	network *plan.Network // nil if it has gone
}

func (s step) object() string { return "firewalld interface " + s.bridge }

func (s step) drift() plan.Drift {
	d := plan.Drift{Object: s.object(), Field: "zone"}
	if s.network != nil {
		d.Owner.Network = s.network.ID
	}
	if s.do == bind {
		d.Want = s.zone
	} else {
		d.Got = s.zone
	}
	return d
}

// steps are what leads from what is seen to what is planned, in fixed order. A bridge
// that we bound to a zone that is not the one for it any more is unbound, and the next
// look binds it. Whatever somebody else has bound stays where it is.
func (s *sight) steps(wanted planned, noted map[string]string) []step {
	var all []step
	names := slices.AppendSeq(slices.Collect(maps.Keys(wanted)), maps.Keys(noted))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		network, isPlanned := wanted[name]
		at, note := s.bound[name], noted[name]
		isOurs := note != "" && note == at
		switch {
		case isOurs && (!isPlanned || at != s.zone()):
			all = append(all, step{unbind, name, at, network})
		case note != "" && !isOurs && (!isPlanned || at != ""):
			all = append(all, step{forget, name, "", network})
		case isPlanned && at == "":
			all = append(all, step{bind, name, s.zone(), network})
		}
	}
	return all
}

// warnings tell a person what does not work and what to do about it.
func (s *sight) warnings(wanted planned, noted map[string]string) []string {
	var all []string
	const lost = "so nobody outside reaches containers by their own addresses, whatever gateway modes and trusted interfaces say: " +
		"make install puts it into /usr/lib/firewalld, and firewall-cmd --reload has it read (changes of firewalld that are not permanent are lost by that)"
	switch {
	case len(wanted) == 0:
	case s.zone() != ownZone:
		all = append(all, fmt.Sprintf("firewalld lacks the zone %s, %s", ownZone, lost))
	case !slices.Contains(s.policies, ownPolicy):
		all = append(all, fmt.Sprintf("firewalld lacks the policy %s, %s", ownPolicy, lost))
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if at := s.bound[name]; at != "" && at != noted[name] && at != s.zone() {
			all = append(all, fmt.Sprintf("network %s: bridge %s is in firewalld's zone %s, where somebody else put it: "+
				"what that zone rejects does not get through", wanted[name].ID.Short(), name, at))
		}
	}
	return all
}
