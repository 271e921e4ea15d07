// Package firewalltest is what every firewall of ours must stand, judged by packets:
// containers on a host that has been given a plan, and others who ask for them.
//
// The reachability table (test/reach) says who may talk to whom, and Table asks it in
// every environment that a host may be; Packets is what has no place in it: ranges, UDP,
// crafted packets. Market has ports change hands at random. How a firewall keeps its rules
// is not looked at.
package firewalltest

import (
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// Backend is a firewall under test.
type Backend struct {
	// Name is one of Backends.
	Name string
	// Protect puts it up on a host for a plan.
	Protect func(t testing.TB, h *lab.Host, p *plan.Plan)
	// Layer puts up one that stays, for one plan after the other.
	Layer func(t testing.TB, h *lab.Host) Applier
	// Drops is what each of its rules has dropped so far, by the rule's reason.
	Drops func(t testing.TB, h *lab.Host) map[string]int
	// Wipe takes all of it away, as somebody else may.
	Wipe func(t testing.TB, h *lab.Host)
	// Command is the iptables that an engine beside it would use.
	Command string
	// NeedsBridged says that it keeps containers apart only where frames between them
	// are shown to it.
	NeedsBridged bool
}

// Packets runs the whole suite.
func Packets(t *testing.T, b Backend) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Backend){
		"published ports":                               publishedPorts,
		"ranges lead to other ranges":                   rangesShifted,
		"SCTP is published":                             publishedSCTP,
		"containers reach outside behind the host":      containersReachOutside,
		"an engine's masquerade comes too late":         anEnginesMasquerade,
		"what an engine publishes is open to ours":      whatAnEnginePublishes,
		"link-local addresses are not published":        linkLocalAddresses,
		"closed":                                        closed,
		"the loopback is the host's own":                loopback,
		"the guard keeps the host from being a router":  guard,
		"the guard asks where a packet enters":          guardOfStrangers,
		"a LAN behind a bridge stays where it was":      guardOfLan,
		"the host sends no redirects to containers":     noRedirects,
		"a smaller MTU on the way is learned":           pathMTU,
		"fragments arrive":                              fragments,
		"IPv4 clients may have link-local addresses":    linkLocalClients,
		"answers may go by another way than questions":  anotherWayBack,
		"no datagram reaches what is closed":            craftedDatagrams,
		"no frame reaches a container kept apart":       craftedFrames,
		"nothing leaves untranslated":                   nothingLeavesUntranslated,
		"containers are kept apart":                     keptApart,
		"no way leads around through the gateway":       noWayAround,
		"containers kept apart reach all else":          keptApartReachAllElse,
		"containers kept apart are open to others":      keptApartOpenToOthers,
		"an internal network may keep containers apart": internalApart,
		"gateway modes open containers' own addresses":  gatewayModes,
		"trusted interfaces reach what is published":    trustedInterfaces,
		"containers go out by the address of choice":    addressOfChoice,
		"no accept of others undoes a drop of ours":     acceptsOfOthers,
		"a drop of others wins":                         dropsOfOthers,
		"an established flow survives all that we do":   establishedFlow,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for silence
			test(t, b)
		})
	}
}

// keepingApart runs a test with frames between containers shown to the firewall and,
// if it can do without, not.
func (b Backend) keepingApart(t *testing.T, test func(t *testing.T, bridged string)) {
	t.Helper()
	scene.BridgedOrNot(t, func(t *testing.T, bridged string) {
		if bridged == "1" || !b.NeedsBridged {
			test(t, bridged)
		}
	})
}
