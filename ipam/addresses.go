package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// An AddressRequest says which address is wanted, and what for.
type AddressRequest struct {
	Pool string     // its ID
	Addr netip.Addr // zero: any

	Gateway bool // for the network's gateway, not for an endpoint

	// Owner is the name or the MAC of the container. Engines up to 28 mostly
	// tell neither; then an address asked for by name may be the --ip of a
	// container or an auxiliary address of the network, and is kept as both.
	Owner string
}

// RequestAddress gives an address away, as the prefix that the interface gets:
// with the length of the pool. An address asked for by name may lie outside the
// range from which the others are chosen.
func (a *Allocator) RequestAddress(r AddressRequest) (netip.Prefix, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pools[r.Pool]
	if p == nil {
		return netip.Prefix{}, fmt.Errorf("request address: pool %s: no such pool", r.Pool)
	}
	addr, err := a.lend(p, r)
	switch {
	case err != nil && r.Addr.IsValid():
		return netip.Prefix{}, fmt.Errorf("request address %s: pool %s: %w", r.Addr, p.Prefix, err)
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("request address: pool %s: %w", p.Prefix, err)
	}
	return netip.PrefixFrom(addr, p.Prefix.Bits()), nil
}

func (a *Allocator) lend(p *pool, r AddressRequest) (netip.Addr, error) {
	addr, err := p.pick(r.Addr)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := a.save(p.grant(r, addr)); err != nil {
		return netip.Addr{}, err
	}
	if !r.Addr.IsValid() {
		p.cursor = addr.Next()
	}
	return addr, nil
}

// pick returns the address asked for, if it can be had, or the one to choose.
func (p *pool) pick(named netip.Addr) (netip.Addr, error) {
	if !named.IsValid() {
		if addr, ok := p.choose(); ok {
			return addr, nil
		}
		return netip.Addr{}, p.spent()
	}
	if !p.Prefix.Contains(named) { // nor any address with a zone
		return netip.Addr{}, errors.New("lies outside the pool")
	}
	if what, special := specialAddr(p.Prefix, named); special {
		return netip.Addr{}, errors.New("is " + what)
	}
	if holder, ok := p.holder(named); ok {
		return netip.Addr{}, fmt.Errorf("%w: %s", ErrOverlap, holder)
	}
	return named, nil
}

func (p *pool) spent() error {
	in := ""
	if p.Range.IsValid() {
		in = fmt.Sprintf(" in range %s", p.Range)
	}
	return fmt.Errorf("%w%s: %d leased, %d reserved", ErrNoAddress, in, len(p.leases), len(p.reserved))
}

// grant returns the changes that give addr away. A gateway, or what may be an
// auxiliary address, is asked for once in a network's life and must outlive a
// power cut. A lease of a container is not worth waiting for the disk.
func (p *pool) grant(r AddressRequest, addr netip.Addr) Changes {
	var c Changes
	if !p.Used {
		used := p.Pool
		used.Used = true
		c.PutPools = []Pool{used}
	}
	key := Key{Pool: p.ID, Addr: addr}
	if p.rests[addr] != nil {
		c.DeleteRests = []Key{key}
	}
	if r.Gateway {
		c.PutReservations = []Reservation{{Key: key, Role: Gateway}}
		return c
	}
	c.PutLeases = []Lease{{Key: key, Owner: r.Owner}}
	if _, reserved := p.reserved[addr]; r.Addr.IsValid() && r.Owner == "" && !reserved {
		c.PutReservations = []Reservation{{Key: key, Role: Named}}
	}
	return c
}

// ReleaseAddress takes an address back, whatever it was given for. One that
// nobody holds, or of a pool that is not known, is released already.
func (a *Allocator) ReleaseAddress(pool string, addr netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pools[pool]
	if p == nil {
		return nil
	}
	var c Changes
	if !p.release(&c, addr) {
		return nil
	}
	if err := a.save(c); err != nil {
		return fmt.Errorf("release address %s: pool %s: %w", addr, p.Prefix, err)
	}
	return nil
}

// Leased reports whether somebody has an address of a pool.
func (a *Allocator) Leased(pool string, addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pools[pool]
	return p != nil && p.leases[addr] != nil
}
