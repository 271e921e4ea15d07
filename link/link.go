// Package link makes the kernel's interfaces match a plan: bridges, veth pairs,
// their addresses and their sysctls, over rtnetlink and /proc/sys. It also tells
// what the host is like: its other interfaces, its routes, its forwarding.
//
// It decides nothing (plan does), filters nothing (the firewalls do) and touches
// no interface that is not marked as ours, save for the sysctls of uplinks and what a
// bridge that a person had before us lacks: both are remembered and taken back.
package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

// Memory keeps what links that are not ours were like before we changed them, for as
// long as the host is up. Its keys are like ipv4.eth0.forwarding and
// address.br-lan.172.30.0.1/24.
type Memory interface {
	Found() (map[string]int, error)
	Remember(key string, value int) error
	Forget(key string) error
}

// Kernel is the layer of links. It works in the network namespace of the thread
// that called New; what it does by /proc/sys follows the calling thread, so a
// process that has threads in several namespaces must call from the right one.
type Kernel struct {
	memory  Memory
	sysctls string // e.g. /proc/sys, where they can be written

	// routes is the library's socket, for addresses and routes. Links have one of
	// our own, since the library creates a pair in two steps and reads neither
	// hairpin mode nor forward delay.
	routes  *netlink.Handle
	sockets map[int]*nl.SocketHandle
	packets int // socket for announcements, or noPackets

	// notes is held while something is set on links that are not ours, with the note of what
	// it was: in between, ours looks like found. It is taken before mu.
	notes sync.Mutex

	mu sync.Mutex // for what follows, and never for long
	// planned are the objects last applied, by every name that they have here.
	planned map[string]object
	uplinks []plan.Uplink
	changing
	// wrote says that something was mended since Poll last looked.
	wrote atomic.Bool
	// glimpsed are the ways that br_netfilter was found to be since then.
	glimpsed atomic.Uint32

	distrust  bool     // see Distrust
	forgotten []string // names of the pairs that were left
}

// New opens the sockets. The Memory must be of this boot and of this network
// namespace: see BootID. Sysctls are written below a directory that has the shape of
// /proc/sys, as far as its net goes, and is /proc/sys unless that is read-only.
func New(mem Memory, sysctls string) (*Kernel, error) {
	routes, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		routes.Close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	// The kernel's own words make better errors; an old kernel has none.
	_ = socket.SetExtAck(true)
	return &Kernel{
		memory:   mem,
		sysctls:  sysctls,
		routes:   routes,
		sockets:  map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}},
		packets:  openPackets(),
		planned:  map[string]object{},
		changing: changing{now: map[string]plan.Owner{}, heard: map[string]bool{}},
	}, nil
}

// Close gives the sockets back. What was made stays.
func (k *Kernel) Close() {
	k.routes.Close()
	for _, s := range k.sockets {
		s.Close()
	}
	if k.packets != noPackets {
		unix.Close(k.packets)
	}
}

// Apply makes the host's links match want. With have it looks at nothing but what
// differs, and works on several networks at a time; without, at every link, which nobody
// may change meanwhile. Uplinks are set only where want has others than have, and Restore
// puts back what was set of them.
func (k *Kernel) Apply(ctx context.Context, have, want *plan.Plan) error {
	return k.apply(ctx, have, want, (*pass).spared)
}

// apply deletes, of what is not planned, what choose leaves.
func (k *Kernel) apply(ctx context.Context, have, want *plan.Plan, choose func(*pass, []object) ([]object, error)) error {
	p := &pass{kernel: k, mend: true, scene: newScene(k)}
	everything := have == nil
	if everything {
		if err := p.scene.look(); err != nil {
			return err
		}
		have = &plan.Plan{}
	}
	gone, wanted := difference(have, want)
	unplanned, err := choose(p, k.expect(p, gone, wanted, everything))
	if err != nil {
		return err
	}
	gone = append(gone, unplanned...)
	done := k.begin(gone, wanted)
	defer done()
	if everything || !reflect.DeepEqual(have.Uplinks, want.Uplinks) {
		k.expectUplinks(want.Uplinks)
		p.setUplinks(want.Uplinks)
	}
	p.links(ctx, gone, wanted)
	return errors.Join(p.errs...)
}

// Check reports where the host's links differ from want.
func (k *Kernel) Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error) {
	p := &pass{kernel: k, scene: newScene(k)}
	unplanned, wanted, err := p.survey(want)
	if err != nil {
		return nil, err
	}
	p.setUplinks(want.Uplinks)
	p.links(ctx, unplanned, wanted)
	p.restoreFound(want)
	return p.drift, errors.Join(p.errs...)
}

// Remove deletes every link that carries our mark and leaves all others as they were
// found.
func (k *Kernel) Remove(ctx context.Context) error {
	nothing := &plan.Plan{}
	err := k.apply(ctx, nil, nothing, (*pass).all)
	return errors.Join(err, Restore{k}.Apply(ctx, nil, nothing))
}

// Exists reports whether the host has an interface of this name, and whether that has ever
// had a carrier: one end of a pair has it once both are up.
func (k *Kernel) Exists(name string) (exists, used bool, err error) {
	d, err := k.device(name)
	if err != nil {
		return false, false, fmt.Errorf("look for link %s: %w", name, err)
	}
	return d != nil, d != nil && d.used, nil
}

// object is one link that is planned, or that carries our mark and is not.
type object struct {
	owner plan.Owner
	name  string
	mark  string
	// Exactly one of the two says what it is.
	bridge *plan.Bridge
	veth   *plan.Veth

	addresses []netip.Addr // of a pair: the container's
	renewed   bool         // of a pair that may be there: its MAC or addresses are others now
}

// names are those that it has here, and one that is its other end's until that has moved.
func (o object) names() []string {
	if o.veth == nil || o.veth.Peer == "" {
		return []string{o.name}
	}
	return []string{o.name, o.veth.Peer}
}

func (o object) kind() string {
	if o.bridge != nil {
		return "bridge"
	}
	return "veth"
}

func bridgeOf(n *plan.Network) object {
	return object{owner: plan.Owner{Network: n.ID}, name: n.Bridge.Name, mark: plan.NetworkMark(n.ID), bridge: n.Bridge}
}

func vethOf(network spec.ID, e *plan.Endpoint) object {
	owner := plan.Owner{Network: network, Endpoint: e.ID}
	return object{owner: owner, name: e.Veth.Name, mark: plan.EndpointMark(e.ID), veth: e.Veth, addresses: e.Addresses}
}

// difference lists what have has and want has not, and what want has anew or
// otherwise, without looking at what both share.
func difference(have, want *plan.Plan) (gone, wanted []object) {
	for c := range tree.Diff(have.Networks, want.Networks) {
		switch {
		case c.New == nil:
			gone = append(gone, bridgeOf(c.Old))
		case c.Old == nil || c.Old.Bridge != c.New.Bridge:
			wanted = append(wanted, bridgeOf(c.New))
		}
		for e := range plan.DiffEndpoints(c.Old, c.New) {
			switch {
			case e.New == nil:
				gone = append(gone, vethOf(c.Key, e.Old))
			case e.Old == nil:
				wanted = append(wanted, vethOf(c.Key, e.New))
			default:
				o := vethOf(c.Key, e.New)
				o.renewed = e.Old.Veth.MAC != o.veth.MAC || !slices.Equal(e.Old.Addresses, o.addresses)
				if o.renewed || !reflect.DeepEqual(e.Old.Veth, o.veth) {
					wanted = append(wanted, o)
				}
			}
		}
	}
	return gone, wanted
}

// expect notes what Watch is to find, and returns what of all that was looked at should
// not be.
func (k *Kernel) expect(p *pass, gone, wanted []object, everything bool) []object {
	k.mu.Lock()
	defer k.mu.Unlock()
	if everything {
		clear(k.planned)
	}
	for _, o := range gone {
		for _, name := range o.names() {
			delete(k.planned, name)
		}
	}
	for _, o := range wanted {
		for _, name := range o.names() {
			k.planned[name] = o
		}
	}
	return p.unplanned(k.planned)
}

func (k *Kernel) expectUplinks(uplinks []plan.Uplink) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uplinks = uplinks
}
