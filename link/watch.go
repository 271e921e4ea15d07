package link

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchBuffer is how many bytes of events may wait while we are busy. What does
// not fit is lost, which the kernel tells.
const watchBuffer = 4 << 20

// Watch calls wake, until ctx ends, when the kernel reports something that the
// facts of the host or what was last applied may have to follow: links, addresses,
// and the sysctls that have events (forwarding and rp_filter).
//
// Our own doing wakes nobody. The kernel marks too few events with who caused
// them, so an event about an object of ours leads to a look at just that object,
// once no Apply works on it, and wakes if it is not as planned. What remains:
// the host-wide switch of IPv6, and an uplink's setting that we put back, look like
// anybody's change.
//
// Routes are not followed, since nothing that we do depends on them and a host may
// have a million.
func (k *Kernel) Watch(ctx context.Context, wake func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	stop := context.AfterFunc(ctx, socket.Close)
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	if socket.SetReceiveBufferSize(watchBuffer, true) != nil {
		// Root of a user namespace only gets what the administrator allows all.
		_ = socket.SetReceiveBufferSize(watchBuffer, false)
	}
	k.mu.Lock()
	k.wake = wake
	k.mu.Unlock()
	w := &watcher{kernel: k, ours: map[int]string{}}
	wake() // for what happened before we listened
	for {
		messages, _, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			wake() // events are lost, so anything may have happened
			continue
		case err != nil:
			return fmt.Errorf("watch links: %w", err)
		}
		if w.concern(messages) {
			wake()
		}
	}
}

// watcher judges events. It alone remembers which index is whose, since an event
// about an address names no link, and may come when the link is gone.
type watcher struct {
	kernel *Kernel
	ours   map[int]string // names of links of ours by index
}

func (w *watcher) concern(messages []syscall.NetlinkMessage) bool {
	for _, m := range messages {
		if w.concerns(m) {
			return true
		}
	}
	return false
}

func (w *watcher) concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.link(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.address(m)
	case unix.RTM_NEWNETCONF:
		return w.netconf(m)
	}
	return false
}

func (w *watcher) link(m syscall.NetlinkMessage) bool {
	d, err := parseDevice(m.Data)
	if err != nil {
		return true
	}
	deleted := m.Header.Type == unix.RTM_DELLINK
	if !w.kernel.knows(d) && w.ours[d.index] == "" {
		return !deleted && d.family == unix.AF_UNSPEC && w.exists(d.index)
	}
	if !w.kernel.adopting(d) {
		w.ours[d.index] = d.name
	}
	if deleted && d.family == unix.AF_UNSPEC {
		delete(w.ours, d.index)
	}
	return w.kernel.strays(d.name)
}

// exists tells of a foreign link whether it matters. One that is gone by now does
// not: facts about a link need its addresses, whose end has an event of its own.
func (w *watcher) exists(index int) bool {
	d, err := w.kernel.deviceAt(index)
	return err != nil || d != nil
}

func (w *watcher) address(m syscall.NetlinkMessage) bool {
	name, ours := w.name(indexOf(m))
	if !ours || w.kernel.strays(name) {
		return true
	}
	// Of one object alone no addresses are looked at that it should not have.
	o, _ := w.kernel.planFor(name)
	return o.veth != nil && m.Header.Type == unix.RTM_NEWADDR && !ofLinkAlone(m)
}

// name finds whose an index is, and whether it is ours.
func (w *watcher) name(index int) (string, bool) {
	if name, ok := w.ours[index]; ok {
		return name, true
	}
	d, err := w.kernel.deviceAt(index)
	if err != nil || d == nil {
		return "", false
	}
	known := w.kernel.knows(d)
	if known && !w.kernel.adopting(d) {
		w.ours[index] = d.name
	}
	return d.name, known
}

func (w *watcher) netconf(m syscall.NetlinkMessage) bool {
	const sizeofHeader, ifindex = 4, 1 // struct netconfmsg, NETCONFA_IFINDEX in linux/netconf.h
	if len(m.Data) < sizeofHeader {
		return true
	}
	index := 0
	err := each(m.Data[sizeofHeader:], func(kind uint16, value []byte) error {
		if kind == ifindex {
			index = number(value)
		}
		return nil
	})
	if err != nil || index <= 0 {
		return true // all links, or those to come
	}
	name, ours := w.name(index)
	if ours {
		return w.kernel.strays(name)
	}
	return name != "" && !w.kernel.asPlanned(name)
}

// knows reports whether a link is planned, carries our mark or is on its way from one to the
// other.
func (k *Kernel) knows(d *device) bool {
	_, planned := k.planFor(d.name)
	return planned || d.ours() || k.isChanging(d.name)
}

// recognises reports whether a link is ours, and also if somebody has taken its mark.
func (k *Kernel) recognises(d *device) bool {
	o, planned := k.planFor(d.name)
	return d.ours() || planned && d.name == o.name && o.recognises(d)
}

// adopting tells of a link that may be ours today and a person's tomorrow.
func (k *Kernel) adopting(d *device) bool {
	o, planned := k.planFor(d.name)
	return planned && o.bridge != nil && o.bridge.Named && !d.ours() && !o.recognises(d)
}

// strays looks at one object of ours and reports whether it differs from the plan. One that
// is being changed does not yet.
func (k *Kernel) strays(name string) bool {
	if k.hear(name) {
		return false
	}
	o, planned := k.planFor(name)
	if !planned {
		d, err := k.device(name)
		return err != nil || d != nil && d.ours()
	}
	p := &pass{kernel: k, scene: newScene(k)}
	p.links(context.Background(), nil, []object{o})
	return len(p.drift) > 0 || len(p.errs) > 0
}

// asPlanned reports whether a link is an uplink on which all stands as we set it.
func (k *Kernel) asPlanned(name string) bool {
	k.notes.Lock() // after a change under way
	defer k.notes.Unlock()
	k.mu.Lock()
	uplinks := k.uplinks
	k.mu.Unlock()
	for _, u := range uplinks {
		if u.Name == name && len(u.Settings) > 0 {
			p := &pass{kernel: k, scene: newScene(k)}
			err := p.settings(u.Name, u.Settings)
			return err == nil && len(p.drift) == 0
		}
	}
	return false
}
