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
	members  tree.Map[member, struct{}]   // who is in a sandbox
}

// member is one endpoint of a sandbox.
type member struct {
	sandbox           string
	network, endpoint ID
}

func (m member) Compare(o member) int {
	return cmp.Or(cmp.Compare(m.sandbox, o.sandbox), m.network.Compare(o.network), m.endpoint.Compare(o.endpoint))
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
	if err := n.Check(); err != nil {
		return err
	}
	if err := s.checkOthers(n); err != nil {
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
	return sameSettings(old.bare(), again.bare())
}

// checkOthers refuses what another network has already.
func (s *State) checkOthers(n *Network) error {
	for id, other := range s.Networks.All() {
		if n.Bridge != "" && n.Bridge == other.Bridge {
			return fmt.Errorf("bridge %s: %w: it is network %s's", n.Bridge, ErrInUse, id.Short())
		}
		for _, p := range n.Pools {
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

// HeldError is the refusal of something that another endpoint has.
type HeldError struct {
	Network, Holder ID
	What            string // e.g. address 10.1.0.2
	Has             string // what the other one does with it, e.g. has it
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.What, ErrInUse, e.holder())
}

func (e *HeldError) holder() string {
	return fmt.Sprintf("%s endpoint %s of network %s", e.Has, e.Holder.Short(), e.Network.Short())
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
	if len(ep.Addresses()) == 0 && n.has(netip.IPv4Unspecified()) {
		return fmt.Errorf("%w: it has no address, but network %s has subnets", ErrInvalid, n.ID.Short())
	}
	for _, a := range ep.Addresses() {
		if err := checkAddress(n, a); err != nil {
			return err
		}
	}
	added := *ep
	added.Ports, added.OnlyIPv4 = nil, false
	if err := s.takeKey(&added.Key, ep.ID); err != nil {
		return err
	}
	s.put(n, &added)
	if len(ep.Ports) == 0 && !ep.OnlyIPv4 {
		return nil // and no endpoint of the same sandbox has to make room
	}
	return s.Publish(network, ep.ID, ep.Ports, ep.OnlyIPv4)
}

func sameEndpoint(old, ep *Endpoint) error {
	return sameSettings(old.created(), ep.created())
}

// sameSettings names the first field in which two structs of one type differ.
func sameSettings[T any](old, again T) error {
	before, after := reflect.ValueOf(old), reflect.ValueOf(again)
	for i := range before.NumField() {
		field := before.Type().Field(i)
		if field.IsExported() && !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
			return fmt.Errorf("%w with other settings: its %s is %s, not %s", ErrExists, field.Name, shown(before.Field(i)), shown(after.Field(i)))
		}
	}
	return nil
}

// shown is a value as an error shows it.
func shown(v reflect.Value) string {
	if v.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%.160s", fmt.Sprint(v.Interface()))
}

// created is the endpoint without what came after its creation.
func (e *Endpoint) created() Endpoint {
	c := *e
	c.Key, c.Sandbox, c.Ports, c.OnlyIPv4, c.Open = "", "", nil, false, nil
	return c
}

func checkAddress(n *Network, a netip.Prefix) error {
	pool, ok := n.Pool(a.Addr())
	if !ok || pool.Prefix.Bits() != a.Bits() {
		return fmt.Errorf("address %s: %w: no subnet of network %s is %s", a, ErrInvalid, n.ID.Short(), a.Masked())
	}
	if err := pool.checkHost(a.Addr()); err != nil {
		return fmt.Errorf("address %s: %w: %w", a, ErrInvalid, err)
	}
	if pool.Gateway == a.Addr() || pool.DefaultGateway == a.Addr() {
		return fmt.Errorf("address %s: %w: it is the gateway of network %s", a, ErrInUse, n.ID.Short())
	}
	if holder, held := n.addresses.Get(a.Addr()); held {
		return &HeldError{Network: n.ID, Holder: holder, What: fmt.Sprintf("address %s", a.Addr()), Has: "it is that of"}
	}
	return nil
}

// put replaces one endpoint of a network, and hence the network.
func (s *State) put(n *Network, ep *Endpoint) {
	if old, ok := n.Endpoints.Get(ep.ID); ok {
		s.members = s.members.Without(member{old.Sandbox, n.ID, ep.ID})
	}
	if ep.Sandbox != "" {
		s.members = s.members.With(member{ep.Sandbox, n.ID, ep.ID}, struct{}{})
	}
	changed := *n
	changed.Endpoints = n.Endpoints.With(ep.ID, ep)
	for _, a := range ep.Addresses() {
		changed.addresses = changed.addresses.With(a.Addr(), ep.ID)
	}
	s.Networks = s.Networks.With(n.ID, &changed)
}

// Holder is the endpoint that has an address, on whichever network.
func (s *State) Holder(addr netip.Addr) (network, id ID, held bool) {
	for network, n := range s.Networks.All() {
		if id, held := n.Holder(addr); held {
			return network, id, true
		}
	}
	return "", "", false
}

// Forfeit takes from an endpoint its IPv6 address, and the ports that lead there.
func (s *State) Forfeit(network, id ID) error {
	_, ep, err := s.Endpoint(network, id)
	if err != nil || !ep.IPv6.IsValid() {
		return err
	}
	s.Unpublish(network, id)
	n, _, err := s.Endpoint(network, id)
	if err != nil {
		return err
	}
	less, changed := *n, *ep
	less.addresses = n.addresses.Without(ep.IPv6.Addr())
	changed.IPv6, changed.Ports, changed.OnlyIPv4 = netip.Prefix{}, nil, false
	s.put(&less, &changed)
	return s.Publish(network, id, ofFamily(ep.Ports, true), ep.OnlyIPv4)
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
	s.members = s.members.Without(member{ep.Sandbox, network, id})
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

// Leave undoes Join, and Open and Publish with it: an engine does not always revoke.
func (s *State) Leave(network, id ID) {
	s.Unpublish(network, id)
	if n, ep, err := s.Endpoint(network, id); err == nil && (ep.Sandbox != "" || len(ep.Open) > 0) {
		changed := *ep
		changed.Sandbox, changed.Open = "", nil
		s.put(n, &changed)
	}
}

// Open makes ports those that can be reached by the endpoint's own address.
func (s *State) Open(network, id ID, ports []Port) error {
	joined, err := JoinPorts(ports)
	if err != nil {
		return err
	}
	n, ep, err := s.Endpoint(network, id)
	if err != nil || slices.Equal(ep.Open, joined) {
		return err
	}
	changed := *ep
	changed.Open = joined
	s.put(n, &changed)
	return nil
}
