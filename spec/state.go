package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/drawbridge-net/drawbridge/tree"
)

// State is everything that is wanted. It is an immutable tree: copying the struct
// is a snapshot, and the rules below, which change the copy that they are called
// on, put new Networks and Endpoints in the place of old ones.
//
// Adding is strict: what clashes is an error, and after an error the State must be
// thrown away. Adding an equal thing twice is no error and changes nothing, since
// an engine repeats what it got no answer for. Removing is forgiving: what is not
// there is gone already.
type State struct {
	Networks tree.Map[ID, *Network]
	keys     tree.Map[ID, ID]             // Key -> ID, of networks and endpoints alike
	ports    tree.Map[portKey, *portHeld] // every published port, to find who holds one
}

// portKey orders published ports by number, ranges apart from single ports, so
// that who holds one is found among few.
type portKey struct {
	proto Proto
	wide  bool
	first uint16
	host  netip.Addr
}

func (k portKey) Compare(o portKey) int {
	return cmp.Or(cmp.Compare(k.proto, o.proto), compareBool(k.wide, o.wide), cmp.Compare(k.first, o.first), k.host.Compare(o.host))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

type portHeld struct {
	port              Port
	network, endpoint ID
}

// Network finds a network, else ErrNotFound.
func (s *State) Network(id ID) (*Network, error) {
	n, ok := s.Networks.Get(id)
	if !ok {
		return nil, fmt.Errorf("network %s: %w", id.Short(), ErrNotFound)
	}
	return n, nil
}

// Endpoint finds an endpoint and its network, else ErrNotFound.
func (s *State) Endpoint(network, id ID) (*Network, *Endpoint, error) {
	n, err := s.Network(network)
	if err != nil {
		return nil, nil, err
	}
	ep, ok := n.Endpoints.Get(id)
	if !ok {
		return nil, nil, fmt.Errorf("endpoint %s of network %s: %w", id.Short(), network.Short(), ErrNotFound)
	}
	return n, ep, nil
}

// AddNetwork adds a network, with the endpoints that it brings along. Its subnets
// must be no other network's. Errors of this and of the other rules leave out the
// object that the caller named.
func (s *State) AddNetwork(n *Network) error {
	if old, ok := s.Networks.Get(n.ID); ok {
		return sameNetwork(old, n)
	}
	if err := s.checkPools(n); err != nil {
		return err
	}
	added := n.bare()
	if err := s.takeKey(&added.Key, n.ID); err != nil {
		return err
	}
	s.Networks = s.Networks.With(n.ID, &added)
	for _, ep := range n.Endpoints.All() {
		if err := s.AddEndpoint(n.ID, ep); err != nil {
			return fmt.Errorf("endpoint %s: %w", ep.ID.Short(), err)
		}
	}
	return nil
}

// bare is the network without its endpoints.
func (n *Network) bare() Network {
	b := *n
	b.Endpoints, b.addresses = tree.Map[ID, *Endpoint]{}, tree.Map[netip.Addr, ID]{}
	return b
}

// SameSettings reports whether two networks differ in nothing but their endpoints.
func (n *Network) SameSettings(o *Network) bool { return reflect.DeepEqual(n.bare(), o.bare()) }

func sameNetwork(old, n *Network) error {
	again := *n
	again.Key = old.Key
	if !old.SameSettings(&again) {
		return fmt.Errorf("%w with other settings", ErrExists)
	}
	return nil
}

func (s *State) checkPools(n *Network) error {
	for i, p := range n.Pools {
		if err := p.Check(); err != nil {
			return err
		}
		for _, q := range n.Pools[:i] {
			if p.Prefix.Overlaps(q.Prefix) {
				return fmt.Errorf("subnet %s: %w: it overlaps subnet %s of the same network", p.Prefix, ErrInvalid, q.Prefix)
			}
		}
		for id, other := range s.Networks.All() {
			for _, q := range other.Pools {
				if p.Prefix.Overlaps(q.Prefix) {
					return fmt.Errorf("subnet %s: %w: it overlaps subnet %s of network %s", p.Prefix, ErrInUse, q.Prefix, id.Short())
				}
			}
		}
	}
	return nil
}

// takeKey fills *key, if it is empty, with the first 12 characters of id that
// name nothing else yet, trying the next 12 where they do.
func (s *State) takeKey(key *ID, id ID) error {
	candidates := []ID{*key}
	if *key == "" {
		candidates = nil
		for rest := id; len(rest) >= keyLen; rest = rest[keyLen:] {
			candidates = append(candidates, rest[:keyLen])
		}
	}
	for _, k := range candidates {
		if _, taken := s.keys.Get(k); !taken {
			*key, s.keys = k, s.keys.With(k, id)
			return nil
		}
	}
	return fmt.Errorf("every interface name that its ID yields is taken: %w", ErrInUse)
}

// RemoveNetwork removes a network and whatever endpoints it still has: Docker
// asks for it only when it knows of none.
func (s *State) RemoveNetwork(id ID) {
	n, ok := s.Networks.Get(id)
	if !ok {
		return
	}
	for ep := range n.Endpoints.All() {
		s.RemoveEndpoint(id, ep)
	}
	s.Networks, s.keys = s.Networks.Without(id), s.keys.Without(n.Key)
}

// HeldError is the refusal of an address that another endpoint has.
type HeldError struct {
	Network, Holder ID
	Addr            netip.Addr
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("address %s: %v: endpoint %s of network %s has it", e.Addr, ErrInUse, e.Holder.Short(), e.Network.Short())
}

// Unwrap makes it one of the class ErrInUse.
func (e *HeldError) Unwrap() error { return ErrInUse }

// AddEndpoint adds an endpoint, with the ports that it brings along. An address
// that another endpoint of the network has is refused by a HeldError.
func (s *State) AddEndpoint(network ID, ep *Endpoint) error {
	n, err := s.Network(network)
	if err != nil {
		return err
	}
	if old, ok := n.Endpoints.Get(ep.ID); ok {
		return sameEndpoint(old, ep)
	}
	for _, a := range ep.Addresses() {
		if err := checkAddress(n, a); err != nil {
			return err
		}
	}
	added := *ep
	added.Ports = nil
	if err := s.takeKey(&added.Key, ep.ID); err != nil {
		return err
	}
	s.put(n, &added)
	return s.Publish(network, ep.ID, ep.Ports)
}

func sameEndpoint(old, ep *Endpoint) error {
	a, b := *old, *ep
	a.Key, b.Key, a.Sandbox, b.Sandbox, a.Ports, b.Ports = "", "", "", "", nil, nil
	if !reflect.DeepEqual(a, b) {
		return fmt.Errorf("%w with other settings", ErrExists)
	}
	return nil
}

func checkAddress(n *Network, a netip.Prefix) error {
	pool, ok := n.Pool(a.Addr())
	if !ok || pool.Prefix.Bits() != a.Bits() {
		return fmt.Errorf("address %s: %w: no subnet of network %s is %s", a, ErrInvalid, n.ID.Short(), a.Masked())
	}
	if err := pool.checkHost(a.Addr()); err != nil {
		return fmt.Errorf("address %s: %w: %w", a, ErrInvalid, err)
	}
	if pool.Gateway == a.Addr() {
		return fmt.Errorf("address %s: %w: it is the gateway of network %s", a, ErrInUse, n.ID.Short())
	}
	if holder, held := n.addresses.Get(a.Addr()); held {
		return &HeldError{Network: n.ID, Holder: holder, Addr: a.Addr()}
	}
	return nil
}

// put replaces one endpoint of a network, and hence the network.
func (s *State) put(n *Network, ep *Endpoint) {
	changed := *n
	changed.Endpoints = n.Endpoints.With(ep.ID, ep)
	for _, a := range ep.Addresses() {
		changed.addresses = changed.addresses.With(a.Addr(), ep.ID)
	}
	s.Networks = s.Networks.With(n.ID, &changed)
}

// RemoveEndpoint removes an endpoint and its published ports.
func (s *State) RemoveEndpoint(network, id ID) {
	s.Unpublish(network, id)
	n, ep, err := s.Endpoint(network, id)
	if err != nil {
		return
	}
	changed := *n
	changed.Endpoints = n.Endpoints.Without(id)
	for _, a := range ep.Addresses() {
		changed.addresses = changed.addresses.Without(a.Addr())
	}
	s.Networks, s.keys = s.Networks.With(network, &changed), s.keys.Without(ep.Key)
}

// Join notes the sandbox that an endpoint is in. Another one is refused until the
// endpoint has left the first.
func (s *State) Join(network, id ID, sandbox string) error {
	n, ep, err := s.Endpoint(network, id)
	switch {
	case err != nil:
		return err
	case ep.Sandbox == sandbox:
		return nil
	case ep.Sandbox != "":
		return fmt.Errorf("%w: it has joined sandbox %s", ErrInUse, ep.Sandbox)
	}
	changed := *ep
	changed.Sandbox = sandbox
	s.put(n, &changed)
	return nil
}

// Leave undoes Join, and Publish with it: an engine does not always revoke.
func (s *State) Leave(network, id ID) {
	s.Unpublish(network, id)
	if n, ep, err := s.Endpoint(network, id); err == nil && ep.Sandbox != "" {
		changed := *ep
		changed.Sandbox = ""
		s.put(n, &changed)
	}
}

// Publish makes ports the published ports of an endpoint, in the place of those
// that it had. All of them, or after an error none.
func (s *State) Publish(network, id ID, ports []Port) error {
	joined, err := JoinPorts(ports)
	if err != nil {
		return err
	}
	_, ep, err := s.Endpoint(network, id)
	if err != nil || slices.Equal(ep.Ports, joined) {
		return err
	}
	s.Unpublish(network, id)
	for _, p := range joined {
		if err := checkFamily(ep, p); err != nil {
			return err
		}
		if held := s.holder(p); held != nil {
			return fmt.Errorf("port %s: %w: %s is published by endpoint %s of network %s",
				p, ErrInUse, held.port, held.endpoint.Short(), held.network.Short())
		}
		s.ports = s.ports.With(keyOf(p), &portHeld{p, network, id})
	}
	n, ep, err := s.Endpoint(network, id)
	if err != nil {
		return err
	}
	changed := *ep
	changed.Ports = joined
	s.put(n, &changed)
	return nil
}

// checkFamily refuses a port on an address of the host to which no address of the
// endpoint corresponds: the kernel does not translate one family into the other.
func checkFamily(ep *Endpoint, p Port) error {
	same := func(a netip.Prefix) bool { return a.Addr().Is4() == p.Host.Is4() }
	if !p.Host.IsValid() || slices.ContainsFunc(ep.Addresses(), same) {
		return nil
	}
	return fmt.Errorf("port %s: %w: the endpoint has no address of that family, and to translate between them is not built yet", p, ErrInvalid)
}

// Unpublish takes back every port of an endpoint.
func (s *State) Unpublish(network, id ID) {
	n, ep, err := s.Endpoint(network, id)
	if err != nil || len(ep.Ports) == 0 {
		return
	}
	for _, p := range ep.Ports {
		s.ports = s.ports.Without(keyOf(p))
	}
	changed := *ep
	changed.Ports = nil
	s.put(n, &changed)
}

func keyOf(p Port) portKey { return portKey{p.Proto, p.Count > 1, p.HostPort, p.Host} }

// holder finds a published port that overlaps p. Single ports that do lie between
// p's first and last number; true ranges are few and looked at one by one.
func (s *State) holder(p Port) *portHeld {
	for k, held := range s.ports.From(portKey{proto: p.Proto, first: p.HostPort}) {
		if k.proto != p.Proto || k.wide || k.first > p.Last() {
			break
		}
		if held.port.overlaps(p) {
			return held
		}
	}
	for k, held := range s.ports.From(portKey{proto: p.Proto, wide: true}) {
		if k.proto != p.Proto || k.first > p.Last() {
			break
		}
		if held.port.overlaps(p) {
			return held
		}
	}
	return nil
}
