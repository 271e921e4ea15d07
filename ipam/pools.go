package ipam

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// patience is how long an unused pool is held against others. The engine asks
// for the gateway, or creates the network, within milliseconds, and asks again
// for 30 seconds when an answer is lost; what it has not touched for longer, it
// does not know that it has. Such a pool stays, because a network of another
// driver may have been made of it, but yields where its addresses are needed.
const patience = time.Minute

// A PoolRequest says which pool is wanted.
type PoolRequest struct {
	// Prefix is the pool. An unspecified address leaves it to us and asks for
	// the size, e.g. 0.0.0.0/26; the zero Prefix leaves the size to us as well.
	Prefix netip.Prefix
	Range  netip.Prefix // addresses are chosen in here; zero: anywhere in Prefix
	V6     bool         // the family, if Prefix is zero
}

func (r PoolRequest) is6() bool {
	if r.Prefix.IsValid() {
		return r.Prefix.Addr().Is6()
	}
	return r.V6
}

// RequestPool gives a pool away. One asked for by name that overlaps another
// pool is refused; one to be chosen overlaps nothing on the host.
func (a *Allocator) RequestPool(r PoolRequest) (Pool, error) {
	if r.Prefix.IsValid() && !r.Prefix.Addr().IsUnspecified() {
		p, err := a.namedPool(r)
		if err != nil {
			return Pool{}, fmt.Errorf("request pool %s: %w", r.Prefix, err)
		}
		return p, nil
	}
	p, err := a.chosenPool(r)
	if err != nil {
		return Pool{}, fmt.Errorf("request pool: %w", err)
	}
	return p, nil
}

func (a *Allocator) namedPool(r PoolRequest) (Pool, error) {
	p := Pool{Prefix: r.Prefix.Masked()}
	if err := checkPrefix(p.Prefix); err != nil {
		return Pool{}, err
	}
	if r.Range.IsValid() {
		p.Range = r.Range.Masked()
		if !within(p.Range, p.Prefix) {
			return Pool{}, fmt.Errorf("range %s lies outside", r.Range)
		}
	}
	if s := choosable(p); s.last.Less(s.first) {
		return Pool{}, fmt.Errorf("range %s: no address in it can be given", r.Range)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if other := a.overlapping(p.Prefix); other != nil && (other.Prefix != p.Prefix || !a.yields(other)) {
		return Pool{}, fmt.Errorf("%w: %s", ErrOverlap, other)
	}
	return a.give(p, netip.Prefix{})
}

func (a *Allocator) chosenPool(r PoolRequest) (Pool, error) {
	if r.Range.IsValid() {
		return Pool{}, fmt.Errorf("range %s: only a pool asked for by prefix has one", r.Range)
	}
	obstacles, err := a.host() // may take long: nobody else should wait for it
	if err != nil {
		return Pool{}, fmt.Errorf("look for obstacles on the host: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ranges, drawn := a.rangesOf(r.is6())
	if r.Prefix.IsValid() {
		ranges, err = ofSize(ranges, r.Prefix.Bits())
	} else {
		err = a.checkTries(r.is6(), obstacles)
	}
	if err != nil {
		return Pool{}, err
	}
	prefix, err := a.choosePrefix(ranges, obstacles)
	if err != nil {
		return Pool{}, err
	}
	return a.give(Pool{Prefix: prefix, Chosen: !r.Prefix.IsValid()}, drawn)
}

// give makes p a pool. What yields to it is forgotten by the same write.
func (a *Allocator) give(p Pool, ula netip.Prefix) (Pool, error) {
	// A release that is repeated because its answer was lost must not hit a
	// later pool of the same prefix.
	p.ID = p.Prefix.String() + "-" + rand.Text()[:8]
	c := Changes{PutPools: []Pool{p}, ULA: ula}
	for _, other := range a.unused {
		if other.Prefix.Overlaps(p.Prefix) {
			c.DeletePools = append(c.DeletePools, other.ID)
		}
	}
	if err := a.save(c); err != nil {
		return Pool{}, err
	}
	return p, nil
}

// firm returns the addresses of the pools that yield to nobody.
func (a *Allocator) firm() spans {
	s := slices.Clone(a.taken)
	for _, p := range a.unused {
		if a.yields(p) {
			s.remove(spanOf(p.Prefix))
		}
	}
	return s
}

// yields reports whether a pool is let go when the same is asked for once more, or when
// one is to be chosen and nothing else is free. Most likely the engine died over it. But
// it may be that of another driver's network without a gateway, and without a container
// so far: so it does not yield to whatever else overlaps it.
func (a *Allocator) yields(p *pool) bool {
	return !p.Used && a.now().Sub(p.since) > patience
}

// ReleasePool takes a pool back with all that is held in it. One that is not
// known is released already.
func (a *Allocator) ReleasePool(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pools[id] == nil {
		return nil
	}
	if err := a.save(Changes{DeletePools: []string{id}}); err != nil {
		return fmt.Errorf("release pool %s: %w", id, err)
	}
	return nil
}

// A Claim is a pool of which a network of ours is made.
type Claim struct {
	Prefix    netip.Prefix
	Auxiliary []netip.Addr // belong to none of the network's endpoints
}

// Network returns which network of ours was made of a pool, "" for none.
func (a *Allocator) Network(pool string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pools[pool]; p != nil {
		return p.Network
	}
	return ""
}

// Use says that a network of ours is made of pools. From now on they do not yield,
// their auxiliary addresses go to no endpoint, and Collect asks after the network and
// its endpoints. It takes all of them or none.
func (a *Allocator) Use(network string, claims ...Claim) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var c Changes
	for _, claim := range claims {
		if err := a.use(&c, network, claim); err != nil {
			return fmt.Errorf("use pool %s: %w", claim.Prefix, err)
		}
	}
	if c.PutPools == nil && c.PutReservations == nil {
		return nil
	}
	return a.save(c)
}

// use adds to c what makes a pool a network's.
func (a *Allocator) use(c *Changes, network string, claim Claim) error {
	p := a.byPrefix[claim.Prefix]
	switch {
	case p == nil:
		return errors.New("no such pool")
	case p.Network != "" && p.Network != network:
		return fmt.Errorf("%w: %s", ErrOverlap, p)
	}
	if p.Network == "" {
		used := p.Pool
		used.Used, used.Network = true, network
		c.PutPools = append(c.PutPools, used)
	}
	for _, addr := range claim.Auxiliary {
		if err := p.bar(c, addr); err != nil {
			return fmt.Errorf("auxiliary address %s: %w", addr, err)
		}
	}
	return nil
}

// bar adds to c what makes an address auxiliary.
func (p *pool) bar(c *Changes, addr netip.Addr) error {
	if !p.Prefix.Contains(addr) {
		return errors.New("lies outside the pool")
	}
	role, reserved := p.reserved[addr]
	if reserved && role != Named {
		return nil // barred already, be it as the gateway
	}
	key := Key{Pool: p.ID, Addr: addr}
	if lease := p.leases[addr]; lease != nil {
		if lease.owner != "" || !reserved { // an endpoint's
			holder, _ := p.holder(addr)
			return fmt.Errorf("%w: %s", ErrOverlap, holder)
		}
		c.DeleteLeases = append(c.DeleteLeases, key)
	}
	if p.rests[addr] != nil {
		c.DeleteRests = append(c.DeleteRests, key)
	}
	c.PutReservations = append(c.PutReservations, Reservation{Key: key, Role: Auxiliary})
	return nil
}

// String says what the pool is, as an error needs it.
func (p *pool) String() string {
	switch {
	case p.Network != "":
		return fmt.Sprintf("pool %s of network %s", p.Prefix, p.Network)
	case !p.Used:
		return fmt.Sprintf("pool %s, given away but not used yet; if Docker has no network with it, drawbridge remove %s gives it back", p.Prefix, p.Prefix)
	default:
		return fmt.Sprintf("pool %s", p.Prefix)
	}
}

// checkPrefix refuses what can never be the subnet of a network.
func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() {
		return errors.New("not a prefix")
	}
	for _, special := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "means this host"},
		{"127.0.0.0/8", "is loopback"},
		{"224.0.0.0/4", "is multicast"},
		{"255.255.255.255/32", "is broadcast"},
		{"::/127", "is loopback"},
		{"::ffff:0:0/96", "is IPv4 written as IPv6"},
		{"ff00::/8", "is multicast"},
	} {
		if p.Overlaps(netip.MustParsePrefix(special.prefix)) {
			return fmt.Errorf("%s: %s %s", p, special.prefix, special.what)
		}
	}
	return nil
}

// within reports whether all of inner lies in outer.
func within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}
