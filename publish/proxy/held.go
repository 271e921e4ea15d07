package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// held is a socket that is served. Whoever uses its descriptor has mu and has seen
// that the socket is not gone: its owner may close it as soon as it is.
type held struct {
	id   uint64
	port uint16 // e.g. 8080
	name string // e.g. 8080/tcp
	tcp  bool   // else UDP
	is4  bool   // an IPv4 socket; any other is of IPv6, and may be of both

	mu    sync.Mutex
	fd    int
	gone  bool
	route Route
	flows map[*flow]struct{} // of TCP

	limits   *limits // of its protocol; limits.mu guards what follows, and is locked after mu
	own      *share
	clients  map[netip.Addr]*share
	sessions map[talk]*session // of UDP
	answers  ways              // of all sockets
}

// flow is a connection of TCP, from when it is accepted.
type flow struct {
	client netip.Addr
	shares shares
	end    context.CancelFunc
}

func (p *Proxy) newHeld(fd int, r Route) (*held, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	_, is4 := local.(*unix.SockaddrInet4)
	port := addrPort(local).Port()
	h := &held{
		id: p.last + 1, port: port, name: fmt.Sprintf("%d/%s", port, r.Proto), tcp: r.Proto == spec.TCP, is4: is4,
		fd: fd, route: r, flows: map[*flow]struct{}{},
		limits: &p.tcp, clients: map[netip.Addr]*share{}, sessions: map[talk]*session{}, answers: p.answers,
	}
	if !h.tcp {
		h.limits = &p.udp
		if err := tellLocal(fd, is4); err != nil {
			return nil, err
		}
	}
	h.own = h.limits.whole.half("the port has its share of those that may be open")
	return h, nil
}

// join lets a connection end with the socket, and says where it leads. It does not if the
// socket is gone, or a share full.
func (h *held) join(f *flow) (to Route, full *share, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return Route{}, nil, false
	}
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	f.shares = h.shares(f.client)
	if full := f.shares.full(); full != nil {
		return Route{}, full, false
	}
	h.enter(f.client, f.shares)
	h.flows[f] = struct{}{}
	return h.route, nil, true
}

// part lets go of a connection that has ended.
func (h *held) part(f *flow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.flows, f)
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	h.exit(f.client, f.shares)
}

// use calls f with the descriptor, unless the socket is gone.
func (h *held) use(f func(fd int) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return unix.EBADF
	}
	return f(h.fd)
}

// reroute ends the sessions that would now go elsewhere.
func (h *held) reroute(r Route) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.route = r
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	for t, s := range h.sessions {
		if r.target(t.client.Addr(), t.local) != s.to {
			s.close()
		}
	}
}

// rest lets a socket wait that cannot be served for lack of something.
func (p *Proxy) rest(h *held) {
	if h.use(p.poll.remove) == nil {
		time.AfterFunc(breath, func() { p.wake(h) })
	}
}

// wake ends the rest of a socket. It may be that this lacks something, too.
func (p *Proxy) wake(h *held) {
	err := h.use(func(fd int) error { return p.poll.add(fd, h.id) })
	if err == nil || errors.Is(err, unix.EBADF) { // gone
		return
	}
	p.grumbler.warn(h.name, "clients wait", err)
	time.AfterFunc(breath, func() { p.wake(h) })
}

// shut has the kernel drop what reaches a socket. Whoever would be let in now, and reset
// as soon as the process ends, sends again instead and is the next one's to serve.
// Connections that were accepted have a filter of their own.
func shut(fd int) error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
}

// end lets go of the socket and of all that came by it.
func (h *held) end(p *poll) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return
	}
	h.gone = true
	_ = p.remove(h.fd) // it may rest
	for f := range h.flows {
		f.end()
	}
	h.hangUp()
}

// hangUp ends the sessions.
func (h *held) hangUp() {
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	for _, s := range h.sessions {
		s.close()
	}
}

// addrPort is what the kernel calls an address, without zone, and IPv4 as such.
func addrPort(from unix.Sockaddr) netip.AddrPort {
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
	}
	return netip.AddrPort{}
}
