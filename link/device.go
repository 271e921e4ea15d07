package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// device is what we read of an interface.
type device struct {
	family   uint8 // AF_BRIDGE where an event is about a port and tells little else
	index    int
	name     string
	kind     string // e.g. bridge; "" for hardware
	alias    string
	mac      net.HardwareAddr
	mtu      int
	master   int // index of the bridge that it is a port of, or 0
	up       bool
	carrier  bool // it is up, and so is a port of it or the other end
	used     bool // it has been, in whatever namespace; not told before Linux 4.16
	loopback bool
	tunnel   bool // whatever is sent into it has the same other end

	stp      bool // of a bridge: spanning tree on
	delay    int  // of a bridge: forward delay in hundredths of a second
	hairpin  bool // of a port of a bridge
	isolated bool // of a port of a bridge: nothing passes between it and others like it
	peer     int  // of a veth: index of its other end…
	peerHere bool // …where that is in our namespace
}

// birthMAC is the MAC that a link has from the message that creates it until its
// mark is set: the kernel ignores an alias in that message. So a link that we were
// killed over is known as ours by its name and MAC. The host's end of a pair keeps it.
// A bridge without a MAC of its own, which one that we adopt may be, takes the lowest
// of its ports', so ours are higher than those of all hardware.
func birthMAC(name string) spec.MAC {
	mac := spec.DeriveMAC("birth", name)
	mac[0] = 0xfe
	return mac
}

func (d *device) halfMade() bool {
	mac := birthMAC(d.name)
	return d.alias == "" && string(d.mac) == string(mac[:])
}

// recognises reports whether a link of the object's name is the object's, whatever its
// mark: nobody else would give a link that MAC.
func (o object) recognises(d *device) bool {
	if d.kind != o.kind() {
		return false
	}
	mac := birthMAC(d.name)
	return string(d.mac) == string(mac[:]) || o.bridge != nil && string(d.mac) == string(o.bridge.MAC[:])
}

// ours reports whether we made it. We make two kinds of links, so an alias like
// ours on another kind means nothing.
func (d *device) ours() bool {
	return (d.kind == "bridge" || d.kind == "veth") && (strings.HasPrefix(d.alias, plan.MarkPrefix) || d.halfMade())
}

// scene is what one walk knows of the host: everything, after look, or else what
// it has asked for one by one.
type scene struct {
	kernel   *Kernel
	complete bool
	byName   map[string]*device
	addrs    map[int][]netip.Prefix // by index of the interface; nil until read
}

func newScene(k *Kernel) *scene { return &scene{kernel: k, byName: map[string]*device{}} }

// look reads every link at once.
func (s *scene) look() error {
	devices, err := s.kernel.devices()
	if err != nil {
		return err
	}
	for _, d := range devices {
		s.byName[d.name] = d
	}
	s.complete = true
	return nil
}

// find returns nil where there is no such link.
func (s *scene) find(name string) (*device, error) {
	if d, ok := s.byName[name]; ok || s.complete {
		return d, nil
	}
	return s.fetch(name)
}

// fetch asks the kernel anew.
func (s *scene) fetch(name string) (*device, error) {
	d, err := s.kernel.device(name)
	if err == nil && d != nil {
		s.byName[name] = d
	}
	return d, err
}

func (s *scene) forget(d *device) { delete(s.byName, d.name) }

func (s *scene) nameOf(index int) string {
	for _, d := range s.byName {
		if d.index == index {
			return d.name
		}
	}
	return fmt.Sprintf("link %d", index)
}

// unplanned lists the links that are ours and that the plan does not have, in the
// order of their names. Only a scene that is complete has any.
func (s *scene) unplanned(planned map[string]object) []object {
	if !s.complete {
		return nil
	}
	strayed := s.strayed(planned)
	var all []object
	for name, d := range s.byName {
		o, ok := planned[name]
		if !d.ours() || ok && d.kind == o.kind() && (d.alias == o.mark || d.halfMade()) || strayed[name] {
			continue
		}
		unwanted := object{name: name, mark: d.alias}
		if d.kind == "bridge" {
			unwanted.bridge = &plan.Bridge{Name: name}
		} else {
			unwanted.veth = &plan.Veth{Name: name}
		}
		all = append(all, unwanted)
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.name, b.name) })
	return all
}

func (s *scene) addresses(index int) ([]netip.Prefix, error) {
	if s.addrs == nil {
		addrs, err := s.kernel.addresses()
		if err != nil {
			return nil, err
		}
		s.addrs = addrs
	}
	return s.addrs[index], nil
}

// forgetAddresses has them read again: with one address of IPv4 others may go.
func (s *scene) forgetAddresses() { s.addrs = nil }

// devices lists every interface.
func (k *Kernel) devices() ([]*device, error) {
	messages, err := retried(func() ([][]byte, error) {
		return k.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC), withoutStatistics())
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	all := make([]*device, 0, len(messages))
	for _, m := range messages {
		d, err := parseDevice(m)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		all = append(all, d)
	}
	return all, nil
}

// device reads one interface; nil where there is none of that name.
func (k *Kernel) device(name string) (*device, error) {
	return k.oneDevice(nl.NewIfInfomsg(unix.AF_UNSPEC), withoutStatistics(),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

func (k *Kernel) deviceAt(index int) (*device, error) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	return k.oneDevice(header, withoutStatistics())
}

func (k *Kernel) oneDevice(query ...nl.NetlinkRequestData) (*device, error) {
	messages, err := k.request(unix.RTM_GETLINK, 0, query...)
	if errors.Is(err, unix.ENODEV) || err == nil && len(messages) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseDevice(messages[0])
}

// withoutStatistics spares the kernel most of the work (RTEXT_FILTER_SKIP_STATS in
// linux/rtnetlink.h).
func withoutStatistics() nl.NetlinkRequestData {
	const skipStatistics = 1 << 3
	return nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics))
}

// addresses lists every address by the index of its interface.
func (k *Kernel) addresses() (map[int][]netip.Prefix, error) {
	list, err := retried(func() ([]netlink.Addr, error) { return k.routes.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all := map[int][]netip.Prefix{}
	for _, a := range list {
		if prefix, ok := prefixOf(a.IPNet); ok {
			all[a.LinkIndex] = append(all[a.LinkIndex], prefix)
		}
	}
	return all, nil
}

// prefixOf gives IPv4 addresses their short form, in which the plan has them.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}

// retried repeats a dump that the kernel says was changed under our eyes.
func retried[T any](dump func() (T, error)) (T, error) {
	const tries = 16
	for range tries - 1 {
		list, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return list, err
		}
	}
	return dump()
}
