package proxy

import (
	"context"
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

	answers *ways // of all sockets

	mu       sync.Mutex
	fd       int
	gone     bool
	route    Route
	flows    map[*flow]struct{} // of TCP
	sessions map[talk]*session  // of UDP
}

// flow is a connection of TCP, from when it is accepted.
type flow struct{ end context.CancelFunc }

func newHeld(fd int, id uint64, r Route, answers *ways) (*held, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	_, is4 := local.(*unix.SockaddrInet4)
	port := addrPort(local).Port()
	h := &held{
		id: id, fd: fd, port: port, name: fmt.Sprintf("%d/%s", port, r.Proto),
		tcp: r.Proto == spec.TCP, is4: is4, answers: answers, route: r,
		flows: map[*flow]struct{}{}, sessions: map[talk]*session{},
	}
	if !h.tcp {
		if err := tellLocal(fd, is4); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// join lets a connection end with the socket. It says where the connection leads and
// how many others there are, if the socket is not gone.
func (h *held) join(f *flow) (to Route, others int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return Route{}, 0, false
	}
	others = len(h.flows)
	h.flows[f] = struct{}{}
	return h.route, others, true
}

func (h *held) leave(f *flow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.flows, f)
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
	for t, s := range h.sessions {
		if r.target(t.client.Addr(), t.local) != s.to {
			h.close(t, s)
		}
	}
}

// rest lets a socket wait that cannot be served for lack of something.
func (h *held) rest(p *poll, pause time.Duration) {
	if h.use(p.remove) == nil {
		time.AfterFunc(pause, func() {
			_ = h.use(func(fd int) error { return p.add(fd, h.id) })
		})
	}
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

// hangUp ends the sessions. mu is held.
func (h *held) hangUp() {
	for t, s := range h.sessions {
		h.close(t, s)
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
