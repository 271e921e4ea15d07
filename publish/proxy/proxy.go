// Package proxy serves, over TCP and UDP, what reaches the socket of a published
// port because the kernel did not translate it: clients of ::1, of link-local
// addresses, of a family that the container does not have, and everybody where
// there is no firewall.
//
// It neither opens nor filters nor closes the sockets that it serves, and does not
// know whom they belong to. It speaks no SCTP. The container sees the host as the
// client: nothing tells it the client's own address.
package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Route says where the clients of one held socket are served.
type Route struct {
	Proto  spec.Proto // TCP or UDP
	Port   uint16     // the container's
	V4, V6 plan.Proxy // for clients of either family
}

// target is where a client is served that asks a local address; the zero AddrPort
// if nowhere. A filter on the socket lets nobody else in, as a rule; it may have
// come later than the client.
func (r Route) target(client, local netip.Addr) netip.AddrPort {
	serve := r.V6
	if client.Is4() {
		serve = r.V4
	}
	if !serve.To.IsValid() || !serve.All && !local.IsLoopback() && !client.IsLinkLocalUnicast() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(serve.To, r.Port)
}

// Options are bounds and what a proxy asks of others. Each zero field has a default.
type Options struct {
	// Connections and Sessions are how many there may be at once, of TCP and of UDP;
	// at most half of either belongs to one socket, and half of that to one client of it.
	// A session in which the client has not spoken again after an answer gives way to a
	// new one. By default as many as need a quarter of the files that the process may open, and not more than 16384;
	// sessions take a quarter of the ports that the kernel gives away at most.
	Connections, Sessions int
	// Connect is how long a container has to accept a connection: 10 s.
	Connect time.Duration
	// Idle is how long a session of UDP lives in silence: 90 s. Talk is the same for one
	// in which the client has spoken again after an answer: 3 minutes.
	Idle, Talk time.Duration
	// Drain is how long established connections may go on when Run is told to end: 3 s.
	Drain time.Duration

	// Refuse reports whether a client is not served; nil refuses nobody. A link-local
	// address has its interface's index as its zone. The index is that of the interface
	// which the client's packet came in by, or 0 where that is unknown: for TCP it is known
	// of link-local clients only. It is asked once for a connection, and for each datagram
	// of a session, in both directions. Refuse is called by several goroutines, without any lock
	// that Serve and Forget wait for.
	Refuse func(client netip.AddrPort, ifindex int) bool
	// Dial connects to containers, over tcp or udp; nil is that of a net.Dialer. What it
	// returns is a *net.TCPConn or a *net.UDPConn.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// The most that is proxied at once, and what files each needs: an end for either
// side and, for TCP, a pipe in either direction.
const (
	mostAtOnce         = 16384
	filesPerConnection = 6
)

func (o Options) withDefaults() (Options, error) {
	files := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return o, os.NewSyscallError("getrlimit", err)
	}
	ports, err := ephemeral()
	if err != nil {
		return o, err
	}
	o.Connections = cmp.Or(o.Connections, int(min(mostAtOnce, files.Cur/8/filesPerConnection)))
	o.Sessions = cmp.Or(o.Sessions, int(max(1, min(mostAtOnce, files.Cur/8, ports/4))))
	o.Connect = cmp.Or(o.Connect, 10*time.Second)
	o.Idle = cmp.Or(o.Idle, 90*time.Second)
	o.Talk = cmp.Or(o.Talk, 3*time.Minute)
	o.Drain = cmp.Or(o.Drain, 3*time.Second)
	if o.Refuse == nil {
		o.Refuse = func(netip.AddrPort, int) bool { return false }
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o, nil
}

// localRange are the ports that the kernel gives away by itself (ip-sysctl.rst).
const localRange = "/proc/sys/net/ipv4/ip_local_port_range"

// ephemeral is how many ports those are, of which each session takes one.
func ephemeral() (uint64, error) {
	text, err := os.ReadFile(localRange)
	if err != nil {
		return 0, fmt.Errorf("read range of ports: %w", err)
	}
	var first, last uint16
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil || last < first {
		return 0, fmt.Errorf("read range of ports: %s: %q", localRange, text)
	}
	return uint64(last-first) + 1, nil
}

// Proxy serves held sockets. Create it with New and let it Run.
type Proxy struct {
	options  Options
	grumbler grumbler
	began    time.Time
	poll     *poll
	buffers  sync.Pool // of *[maxDatagram]byte, for answers of UDP

	flows    sync.WaitGroup // goroutines of connections and sessions
	tcp, udp limits
	answers  ways // udp.mu

	mu    sync.Mutex
	byFD  map[int]*held
	byID  map[uint64]*held // what an event names, since descriptors are used again
	last  uint64           // ID
	ended bool
}

// Stats are what is proxied now.
type Stats struct {
	Connections int // of TCP
	Sessions    int // of UDP
}

// New makes a proxy that serves nothing yet. Its errors are those of the system
// calls that every process may make.
func New(log logrus.FieldLogger, options Options) (*Proxy, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("create proxy: %w", err)
	}
	poll, err := newPoll()
	if err != nil {
		return nil, fmt.Errorf("create proxy: %w", err)
	}
	return &Proxy{
		options: options, grumbler: grumbler{log: log}, began: time.Now(), poll: poll,
		buffers: sync.Pool{New: func() any { return new([maxDatagram]byte) }},
		tcp:     newLimits(options.Connections), udp: newLimits(options.Sessions), answers: ways{},
		byFD: map[int]*held{}, byID: map[uint64]*held{},
	}, nil
}

// Serve begins to serve a socket that does not block, is bound and, if it is of TCP,
// listens. For one that is served already the route changes: connections stay where they
// are, while sessions to where it no longer leads end. The descriptor stays the caller's,
// who must Forget it before it is closed. Serve may come before Run; after it there
// is nothing to serve, which is no error.
func (p *Proxy) Serve(fd int, r Route) error {
	if r.Proto != spec.TCP && r.Proto != spec.UDP {
		return fmt.Errorf("serve port: %s is not proxied", r.Proto)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	if h := p.byFD[fd]; h != nil {
		h.reroute(r)
		return nil
	}
	h, err := p.newHeld(fd, r)
	if err != nil {
		return fmt.Errorf("serve %s socket: %w", r.Proto, err)
	}
	if err := p.poll.add(fd, h.id); err != nil {
		return fmt.Errorf("serve port %s: %w", h.name, err)
	}
	p.last = h.id
	p.byFD[fd], p.byID[h.id] = h, h
	return nil
}

// Forget ends all connections and sessions of a socket. When it returns, nobody uses
// the descriptor any more. One that is not served may be forgotten too.
func (p *Proxy) Forget(fd int) {
	p.mu.Lock()
	h := p.byFD[fd]
	if h != nil {
		delete(p.byFD, fd)
		delete(p.byID, h.id)
	}
	p.mu.Unlock()
	if h != nil {
		h.end(p.poll)
	}
}

// Stats counts what is proxied now.
func (p *Proxy) Stats() Stats {
	return Stats{Connections: p.tcp.open(), Sessions: p.udp.open()}
}

// Files is how many are open at most for what is proxied.
func (p *Proxy) Files() int {
	return p.options.Connections*filesPerConnection + p.options.Sessions
}

// refuse says now and then that a socket has no room, and of what.
func (p *Proxy) refuse(h *held, what string, full *share) {
	p.grumbler.warn(h.name, "no new "+what+": "+full.full, nil)
}
