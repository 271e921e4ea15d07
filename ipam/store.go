package ipam

import "net/netip"

// A Store remembers what the Allocator has given away. What a pool and a
// reservation say must outlive a power cut, and so must the ULA prefix: Docker
// asks for them once, when a network is created, and never again. Leases live
// as long as this boot of the host: the containers that hold them do not
// outlive it either, and no start of a container should wait for a disk. What
// rests, and whose it was, is forgotten at the same time.
type Store interface {
	// Load returns everything that is remembered, in any order.
	Load() (Snapshot, error)
	// Save writes all changes before it returns, the durable ones synced and
	// before those of this boot. After an error each of the two parts may be
	// written or not; neither is written in half.
	Save(Changes) error
}

// A Snapshot is everything that a Store remembers.
type Snapshot struct {
	Pools        []Pool        // durable
	Reservations []Reservation // durable
	ULA          netip.Prefix  // durable; zero until the first IPv6 pool is chosen
	Leases       []Lease       // of this boot
	Rests        []Rest        // of this boot
}

// Changes are written together. What is put replaces what has the same key: a
// pool's is its ID, that of all others is their pool and address.
// Deleting what is not there is no error. Within one Changes no key is both put
// and deleted, and nothing is put into a pool that is deleted.
type Changes struct {
	PutPools    []Pool
	DeletePools []string // IDs; all that is in a deleted pool goes with it

	PutReservations    []Reservation
	DeleteReservations []Key

	PutLeases    []Lease
	DeleteLeases []Key

	PutRests    []Rest
	DeleteRests []Key

	ULA netip.Prefix // replaces the remembered one unless zero
}

// A Pool is a range of addresses that was given to the engine.
type Pool struct {
	ID     string       `json:"id"`              // e.g. 172.30.0.0/24-K3BQ7ZPA
	Prefix netip.Prefix `json:"prefix"`          // e.g. 172.30.0.0/24
	Range  netip.Prefix `json:"range,omitzero"`  // addresses are chosen in here; zero: anywhere in Prefix
	Chosen bool         `json:"chosen,omitzero"` // by us: the request named neither prefix nor size
	Used   bool         `json:"used,omitzero"`   // an address was asked for, or a network was made of it

	// Network is the ID of the network of ours that was made of the pool. It is
	// empty if another driver made one, of which we are not told.
	Network string `json:"network,omitzero"`
}

// A Role is what an address is reserved for.
type Role string

// The roles of a reserved address. None is ever chosen for an endpoint.
const (
	// Gateway is the address of the network's gateway.
	Gateway Role = "gateway"
	// Named is an address that someone who told us nothing else asked for by
	// name: an auxiliary address whose network is not created yet or belongs
	// to another driver, or the --ip of a container on engines up to 28.
	// Whoever names it again gets it, unless a lease holds it.
	Named Role = "named"
	// Auxiliary is an address that belongs to none of the network's endpoints.
	Auxiliary Role = "auxiliary"
)

// A Key names an address within its pool.
type Key struct {
	Pool string     `json:"pool"` // its ID
	Addr netip.Addr `json:"addr"` // e.g. 172.30.0.5
}

// A Reservation keeps an address from being chosen until it is released.
type Reservation struct {
	Key
	Role Role `json:"role"`
}

// A Lease is an address that is in use since some time in this boot.
type Lease struct {
	Key
	Owner string `json:"owner,omitzero"` // name or MAC of the container, if the engine told it
}

// A Rest is an address that was released and should wait for others to be used
// first. It says so across restarts of the daemon, because peers, caches and DNS
// remember an address longer than a restart takes.
type Rest struct {
	Key
	Turn uint64 `json:"turn"` // grows with every release from the pool
}
