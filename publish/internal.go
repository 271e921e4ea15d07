package publish

import (
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Internal knows the internal networks: whoever is in one is served no published port,
// as what the firewall translates does not leave one, either. The zero Internal knows
// none.
type Internal struct {
	mu    sync.RWMutex
	zones map[spec.ID]*plan.Zone
	// How many of the zones have it: one may leave in the step in which another one comes.
	bridges  map[string]int
	prefixes map[netip.Prefix]int
	lengths  map[int]int // of the prefixes
}

// update takes in where two plans differ; all of want if have is nil, or nothing known yet.
func (i *Internal) update(have, want *plan.Plan) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if have == nil || i.zones == nil {
		have = &plan.Plan{}
		i.zones, i.bridges = map[spec.ID]*plan.Zone{}, map[string]int{}
		i.prefixes, i.lengths = map[netip.Prefix]int{}, map[int]int{}
	}
	for n := range tree.Diff(have.Networks, want.Networks) {
		if z := i.zones[n.Key]; z != nil {
			i.count(z, -1)
			delete(i.zones, n.Key)
		}
		if n.New != nil && n.New.Zone.Internal {
			i.count(n.New.Zone, 1)
			i.zones[n.Key] = n.New.Zone
		}
	}
}

// count adds to how many zones have what this one has. mu is held.
func (i *Internal) count(z *plan.Zone, more int) {
	add(i.bridges, z.Bridge, more)
	for _, s := range z.Subnets {
		add(i.prefixes, s.Prefix, more)
		add(i.lengths, s.Prefix.Bits(), more)
	}
}

func add[K comparable](counts map[K]int, key K, more int) {
	if counts[key] += more; counts[key] == 0 {
		delete(counts, key)
	}
}

// Has reports whether a client is in an internal network: by its address, or by the
// interface that its packet came in by, if that is known and not 0. One that cannot be
// named, perhaps since it has just gone, may have been of such a network. It is asked
// for each new client: so what it costs grows neither with links nor with networks, and
// no Apply waits for the kernel's answer.
func (i *Internal) Has(client netip.AddrPort, ifindex int) bool {
	if i.none() {
		return false
	}
	bridge := ""
	if ifindex != 0 {
		var err error
		if bridge, err = linkName(ifindex); err != nil {
			return true
		}
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.bridges[bridge] > 0 || i.contain(client.Addr())
}

func (i *Internal) none() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.zones) == 0
}

// contain reports whether a prefix does, by asking for the one of each length. mu is held.
func (i *Internal) contain(addr netip.Addr) bool {
	for bits := range i.lengths {
		if p, err := addr.Prefix(bits); err == nil && i.prefixes[p] > 0 {
			return true
		}
	}
	return false
}

// linkName asks for the name of one interface. The standard library lists them all to
// find it.
func linkName(index int) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	request.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return "", os.NewSyscallError("ioctl SIOCGIFNAME", err)
	}
	return request.Name(), nil
}
