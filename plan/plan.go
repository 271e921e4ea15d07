// Package plan says what the host must have so that a spec.State is real: bridges,
// veths, addresses, sysctls, firewall entries and held ports.
//
// It is pure: the same State on the same Host gives the same Plan, to the byte of
// its text. It changes nothing (the layers do) and decides nothing that Docker or
// a person should (spec does). This file is all that we can ever put into a kernel.
package plan

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Plan is what the host must have. It is never changed; two Plans share what is
// the same in both, so comparing pointers tells what a layer can skip.
type Plan struct {
	// Host is what the plan was made for.
	Host *Host
	// Uplinks are the host's other interfaces, with what forwarding needs of them.
	Uplinks []Uplink
	// Guard4 and Guard6 say, each for its family, that the host did not forward before we
	// came.
	Guard4, Guard6 bool
	// Guarded4 and Guarded6 are the interfaces that forward what enters by them, each in
	// its family, only because of us: nothing of it passes but from and to containers. There
	// may be a LAN behind a bridge that a person named. Sorted.
	Guarded4, Guarded6 []string
	// Bridges are those of them on which no network is: what they pass from port to port is
	// none of our business, even where br_netfilter shows it to the firewall.
	Bridges []string

	Networks tree.Map[spec.ID, *Network]
}

// Network is what one network needs.
type Network struct {
	ID        spec.ID
	Bridge    *Bridge
	Zone      *Zone
	Endpoints tree.Map[spec.ID, *Endpoint]
}

// DiffEndpoints yields what differs between the endpoints of two plans of one
// network, either of which may be nil: there is no such network, or it has none.
func DiffEndpoints(before, after *Network) iter.Seq[tree.Change[spec.ID, *Endpoint]] {
	var old, now tree.Map[spec.ID, *Endpoint]
	if before != nil {
		old = before.Endpoints
	}
	if after != nil {
		now = after.Endpoints
	}
	return tree.Diff(old, now)
}

// Endpoint is what one endpoint needs.
type Endpoint struct {
	ID   spec.ID
	Veth *Veth
	// Addresses are the container's own, IPv4 first.
	Addresses []netip.Addr
	Mappings  []Mapping
	// Ports are the host's ports that must be held.
	Ports []Held
	// Open are the container's own ports that others than its network may reach by the
	// container's own address.
	Open []Opening
}

// Bridge is a network's bridge. STP is off and the forward delay 0; its MAC never
// changes while ports come and go.
type Bridge struct {
	Name string // e.g. dbr3f2a9c0d11ee
	// Named says that a person chose the name. If there is a bridge of that name it is
	// adopted: it gets Addresses and Settings, all else stays as found, and as found
	// it is left.
	Named     bool
	MAC       spec.MAC       // e.g. 02:5b:…
	MTU       int            // bytes, e.g. 1500
	Addresses []netip.Prefix // e.g. 172.30.0.1/24, set without duplicate address detection
	Settings  []Setting
	// OwnSettings come behind Settings on a bridge that we made.
	OwnSettings []Setting
}

// Veth is a pair of interfaces: the host's end is a port of the bridge in hairpin
// mode, the peer waits in the host's namespace for the engine to move it.
type Veth struct {
	Name   string   // e.g. dbv9b01c2d3e4f5
	Peer   string   // e.g. dbp9b01c2d3e4f5
	Bridge string   // e.g. dbr3f2a9c0d11ee
	MAC    spec.MAC // the peer's
	MTU    int      // of both ends, in bytes; 0 for what the bridge has when they are made
	// Joined says that the engine was told of the peer. If the pair is missing
	// then, its sandbox is gone, and a new pair would help nobody.
	Joined   bool
	Settings []Setting // of the host's end
	// Isolated says that the bridge itself passes nothing between this port and others that
	// are isolated too. It must be off where the firewall sees such frames: those that were
	// translated for a peer on the same bridge would be lost as well.
	Isolated bool
}

// Uplink is an interface of the host that is not ours and that containers'
// packets may leave or enter by.
type Uplink struct {
	Name     string // e.g. eth0, or Everywhere
	Settings []Setting
}

// Everywhere is the name of an Uplink that stands for the host-wide switches.
const Everywhere = "all"

// Setting is one sysctl of an interface: net.ipv4.conf.IF.NAME or net.ipv6.conf.IF.NAME
// (Documentation/networking/ip-sysctl.rst of the kernel).
type Setting struct {
	Family int    // 4 or 6
	Name   string // e.g. forwarding
	Value  int
}

// Zone is what the firewall must know of a network.
type Zone struct {
	Bridge   string // e.g. dbr3f2a9c0d11ee
	Subnets  []Subnet
	Internal bool // nothing passes to or from other interfaces
	Apart    bool // nothing passes between the network's containers
	// Shared says that a person named the bridge. It may have been there before, then,
	// with more on it than containers of ours.
	Shared bool
	// Mode4 and Mode6 are NAT, Unprotected or Routed.
	Mode4, Mode6 spec.GatewayMode
	// Trusted are interfaces that may reach Open ports, whatever the mode.
	Trusted []string // e.g. vxlan.1
}

// Subnet is one of a network's.
type Subnet struct {
	Prefix netip.Prefix // e.g. 172.30.0.0/24
	// Masquerade hides it behind the host's address on the way out: Source, or if that
	// is the zero Addr, that of the interface.
	Masquerade bool
	Source     netip.Addr // e.g. 192.0.2.7
}

// Opening is a port, or a contiguous range, of a container's own address.
type Opening struct {
	Proto       spec.Proto
	Addr        netip.Addr // e.g. 172.30.0.5
	First, Last uint16
}

// Mapping is one translation of a published port, or of a contiguous range: a port
// leads to as many ports behind ToPort as it is behind First.
type Mapping struct {
	Proto       spec.Proto
	Host        netip.Addr // 0.0.0.0 or :: for every local address of the family
	First, Last uint16     // the host's ports
	To          netip.Addr // the container's address, of Host's family
	ToPort      uint16
}

// Held is a port, or a contiguous range, of the host that nobody else may take. What
// reaches its socket nobody has translated: the proxy serves it, or it is dropped.
type Held struct {
	spec.Port
	Proxy4, Proxy6 Proxy // for clients of either family
}

// Proxy is what the userland proxy serves of one held port, in one family of clients.
type Proxy struct {
	To netip.Addr // the container's, of either family; the zero Addr if nothing is served
	// All says that everything is served that reaches the socket, and not only what the
	// kernel would not route to a container: what is sent to ::1, or by a client's
	// link-local address.
	All bool
}

// Host is what the planner must know of the host. It is found, not wished, and
// leaves out what we ourselves put there. Its lists are sorted.
type Host struct {
	// IPv6 says that the kernel has it at all.
	IPv6 bool
	// Forwarding4 and Forwarding6 are net.ipv4.ip_forward and
	// net.ipv6.conf.all.forwarding as found.
	Forwarding4, Forwarding6 bool
	// ForceForwarding says that IPv6 can be forwarded per interface
	// (net.ipv6.conf.IF.force_forwarding, Linux 6.17 and later).
	ForceForwarding bool
	// Routers4 and Routers6 are the names of interfaces that forward what enters by them
	// although the host does not, as found.
	Routers4, Routers6 []string
	// Uplinks are interfaces that are up, have an address and are neither the
	// loopback nor ours nor a bridge or veth of an engine.
	Uplinks []HostLink
	// Others are the other interfaces that are not ours by which packets may enter. They
	// are found where IPv6 has only one switch for all, and nowhere else.
	Others []HostLink
	// Engines are the bridges that an engine's own rules name.
	Engines []HostLink
	// Addresses are the host's own on interfaces that are not ours, loopback and IPv6
	// link-local ones left out.
	Addresses []netip.Addr
	// Drops are the FORWARD chains that drop what no rule decides on in particular, by
	// their policy or by a last rule that drops or rejects everything.
	Drops []Chain
	// Unseen4 and Unseen6 say that what passes from port to port of one bridge meets no
	// hook of the family's: the kernel lacks br_netfilter, or
	// net.bridge.bridge-nf-call-iptables or -ip6tables is 0.
	Unseen4, Unseen6 bool
	// NoFirewall says that there is none of ours: nothing is translated and nothing is
	// judged, so nothing is made to forward either. Published ports are served by the proxy.
	NoFirewall bool
	// Blind says that the firewall does not see, in one family at least, what passes from
	// port to port of one bridge. One that needs br_netfilter for that is blind without.
	Blind bool
}

// Unseen is Unseen4 or Unseen6, of a family 4 or 6.
func (h *Host) Unseen(family int) bool { return family == 4 && h.Unseen4 || family == 6 && h.Unseen6 }

// HasEngineIPv6 reports whether an engine has a network with IPv6.
func (h *Host) HasEngineIPv6() bool {
	return slices.ContainsFunc(h.Engines, func(l HostLink) bool {
		return slices.ContainsFunc(l.Subnets, func(s netip.Prefix) bool { return s.Addr().Is6() && !s.Addr().IsLinkLocalUnicast() })
	})
}

// HostLink is an interface that is not ours.
type HostLink struct {
	Name     string         // e.g. docker0
	Subnets  []netip.Prefix // of its addresses, e.g. 172.17.0.0/16
	AcceptRA bool           // it lives from router advertisements
	Bridge   bool           // it has ports, between which it passes frames
	// Shielded is an engine's bridge of which the engine drops, ahead of all
	// translation, what comes for its containers from any other interface.
	Shielded bool
}

// Chain is a FORWARD chain of the filter table.
type Chain struct {
	Family int    // 4 or 6
	Kind   string // "nft" or "legacy": which of the two iptables it belongs to
}

// Owner says for whom a kernel object exists: an endpoint, a network (no
// Endpoint), or the host itself (neither).
type Owner struct {
	Network, Endpoint spec.ID
}

func (o Owner) String() string {
	switch {
	case o.Endpoint != "":
		return "endpoint " + string(o.Endpoint)
	case o.Network != "":
		return "network " + string(o.Network)
	}
	return "host"
}

// ObjectError is a layer's failure on one object. Whoever does not own the object
// need not suffer from it.
type ObjectError struct {
	Owner  Owner
	Object string // e.g. link dbv9b01c2d3e4f5
	Err    error
}

func (e *ObjectError) Error() string { return e.Object + ": " + e.Err.Error() }

// Unwrap keeps errno visible to errors.Is.
func (e *ObjectError) Unwrap() error { return e.Err }

// Drift is one difference between plan and host.
type Drift struct {
	Owner  Owner  `json:"-"`
	Object string `json:"object"` // e.g. link dbr3f2a9c0d11ee
	Field  string `json:"field"`  // e.g. mtu
	Want   string `json:"want"`   // e.g. 1420; "" where the thing should not be
	Got    string `json:"got"`    // e.g. 1500; "" where the thing is missing
}

// PairField is the Field of the Drift that an endpoint has joined a sandbox and its
// veth pair is gone. A pair goes with its sandbox, so the endpoint is dead.
const PairField = "pair"

func (d Drift) String() string {
	return d.Object + " " + d.Field + ": want " + orNothing(d.Want) + ", got " + orNothing(d.Got)
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
