package plan

import (
	"fmt"
	"regexp"

	"github.com/drawbridge-net/drawbridge/spec"
)

// BridgeName is the name of a network's bridge: a person's choice, or 15 bytes, all
// that the kernel allows.
func BridgeName(n *spec.Network) string {
	if n.Bridge != "" {
		return n.Bridge
	}
	return "dbr" + string(n.Key)
}

// VethName is the name of the end of an endpoint's veth pair that stays on the host.
func VethName(e *spec.Endpoint) string { return "dbv" + string(e.Key) }

// PeerName is the name of the other end, until the engine renames it.
func PeerName(e *spec.Endpoint) string { return "dbp" + string(e.Key) }

var (
	generated    = regexp.MustCompile(`^db[rvp].{12}$`)
	engineBridge = regexp.MustCompile(`^(docker0|docker_gwbridge|br-[0-9a-f]{12})$`)
)

// Generated reports whether a name is like those above, and hence no person's to choose.
func Generated(name string) bool { return generated.MatchString(name) }

// EngineBridge reports whether a name is one that Docker gives its own bridges. An engine
// that writes no rules names them nowhere else.
func EngineBridge(name string) bool { return engineBridge.MatchString(name) }

// NetworkMark is the alias (ip link set dev IF alias TEXT) by which we know a
// bridge as ours.
func NetworkMark(id spec.ID) string { return fmt.Sprintf("drawbridge network %s", id) }

// EndpointMark is the same for the host's end of a veth pair.
func EndpointMark(id spec.ID) string { return fmt.Sprintf("drawbridge endpoint %s", id) }

// MarkPrefix begins every mark.
const MarkPrefix = "drawbridge "

// bridgeMAC is fixed for the network's life, also over a boot. Without one of its
// own a bridge takes the lowest MAC of its ports, which changes as they come and go.
func bridgeMAC(id spec.ID) spec.MAC { return spec.DeriveMAC("bridge", string(id)) }
