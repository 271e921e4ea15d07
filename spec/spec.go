// Package spec says what is wanted: the networks, endpoints and published ports
// that Docker asked for, and the rules that keep them sound together.
//
// It is pure. It does not know what a host must have for it (that is plan), nor
// does it hand out addresses (ipam), nor touch a kernel or a disk.
package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/drawbridge-net/drawbridge/tree"
)

// The classes of errors that a caller may branch on with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrInUse    = errors.New("in use")
	ErrInvalid  = errors.New("invalid")
)

// ID is Docker's identifier of a network (64 hexadecimal digits, or the 25
// letters and digits of a swarm) or of an endpoint (64 hexadecimal digits).
type ID string

// Compare orders IDs as text.
func (id ID) Compare(other ID) int { return strings.Compare(string(id), string(other)) }

// Short is the beginning of an ID, as Docker shows it.
func (id ID) Short() string { return string(id[:min(len(id), keyLen)]) }

// keyLen is how much of an ID fits behind a three-letter prefix into the 15
// bytes of an interface name (IFNAMSIZ in linux/if.h, less the final NUL).
const keyLen = 12

// ParseID checks the text of an ID. It refuses everything but lower-case letters
// and digits, so that an ID can be part of a name without further thought.
func ParseID(text string) (ID, error) {
	if len(text) < keyLen || len(text) > 64 {
		return "", fmt.Errorf("ID %.80q: %w: want 12 to 64 letters and digits", text, ErrInvalid)
	}
	for _, r := range text {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return "", fmt.Errorf("ID %.80q: %w: want lower-case letters and digits only", text, ErrInvalid)
		}
	}
	return ID(text), nil
}

// Network is one network as Docker described it. A Network in a State is never
// changed; a change puts another in its place.
type Network struct {
	ID ID
	// Key names the kernel's objects: 12 characters of the ID, on this host no
	// other network's. AddNetwork chooses it.
	Key ID // e.g. 3f2a9c0d11ee
	// Bridge is the name that a person gave the bridge, "" for one made of Key.
	Bridge string // e.g. br-lan
	// Internal networks are without a way out: no container is told of a gateway, nothing
	// leaves them, nothing enters.
	Internal bool
	// Apart keeps the network's containers from each other.
	Apart bool
	// Pools are the subnets, those of IPv4 first. A network without any carries
	// frames between its containers and nothing else.
	Pools []Pool
	// InhibitIPv4 leaves the bridge without the gateway's IPv4 address.
	InhibitIPv4 bool
	// Mode4 and Mode6 say, each for its family, how containers and the world outside
	// reach each other.
	Mode4, Mode6 GatewayMode
	// Trusted are interfaces of the host behind which published ports are also
	// reached by the container's own address.
	Trusted []string // e.g. vxlan.1
	// MTU of bridge and veths in bytes; 0 leaves the kernel's default of 1500, or what an
	// adopted bridge has.
	MTU int // e.g. 1420
	// Masquerade hides the containers' addresses behind the host's: behind Source4
	// and Source6, or where there is none behind that of the interface they leave by.
	Masquerade       bool
	Source4, Source6 netip.Addr // e.g. 192.0.2.7
	// HostBinding is where a port is published that names no address of the host;
	// the zero Addr for every address of both families.
	HostBinding netip.Addr // e.g. 127.0.0.1
	// InterfacePrefix begins the names of interfaces in containers.
	InterfacePrefix string // e.g. eth

	Endpoints tree.Map[ID, *Endpoint] `json:"-"`

	addresses tree.Map[netip.Addr, ID] // which endpoint has an address
}

// Pool finds the subnet in which an address lies.
func (n *Network) Pool(addr netip.Addr) (Pool, bool) {
	for _, p := range n.Pools {
		if p.Prefix.Contains(addr) {
			return p, true
		}
	}
	return Pool{}, false
}

// HasIPv4 reports whether the network has a subnet of IPv4.
func (n *Network) HasIPv4() bool { return n.has(netip.IPv4Unspecified()) }

// HasIPv6 reports whether the network has a subnet of IPv6.
func (n *Network) HasIPv6() bool { return n.has(netip.IPv6Unspecified()) }

// has reports whether the network has a subnet of the family that an address is of.
func (n *Network) has(family netip.Addr) bool {
	return slices.ContainsFunc(n.Pools, func(p Pool) bool { return p.Prefix.Addr().Is4() == family.Is4() })
}

// Mode is the gateway mode of the family that an address is of.
func (n *Network) Mode(of netip.Addr) GatewayMode {
	if of.Is4() {
		return n.Mode4
	}
	return n.Mode6
}

// Holder finds the endpoint of the network that has the address.
func (n *Network) Holder(addr netip.Addr) (ID, bool) { return n.addresses.Get(addr) }

// Endpoint is one container's place on a network. Like a Network it is never
// changed in place.
type Endpoint struct {
	ID ID
	// Key is to an endpoint what it is to a Network. AddEndpoint chooses it.
	Key ID
	// IPv4 and IPv6 are the container's addresses with their pool's length; the
	// zero Prefix where it has none.
	IPv4 netip.Prefix // e.g. 172.30.0.5/24
	IPv6 netip.Prefix // e.g. fd00:30::5/64
	MAC  MAC
	// InterfaceName is the exact name that was asked for in the container, or "".
	InterfaceName string // e.g. web9
	// Sandbox is the network namespace the endpoint has joined, "" before.
	Sandbox string // e.g. /var/run/docker/netns/1eee51bd70de
	// Ports are published since Docker made this endpoint its container's gateway.
	Ports []Port
	// OnlyIPv4 says that another endpoint of the sandbox is its gateway for IPv6, and
	// has the published ports of that family.
	OnlyIPv4 bool `json:",omitempty"`
	// Open are the container's own ports that can be reached without translation, in
	// families whose gateway mode is Routed: Host is 0.0.0.0 or ::, HostPort the
	// ContainerPort.
	Open []Port `json:",omitempty"`
}

// Addresses are those that the endpoint has, IPv4 first.
func (e *Endpoint) Addresses() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			all = append(all, p)
		}
	}
	return all
}
