package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// breath is how long a socket rests of which nothing can be accepted.
const breath = 250 * time.Millisecond

// accept takes a burst of connections that wait.
func (p *Proxy) accept(ctx context.Context, h *held) {
	for range burst {
		var fd int
		var from unix.Sockaddr
		err := h.use(func(listening int) (err error) {
			fd, from, err = unix.Accept4(listening, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return err
		})
		switch {
		case err == nil:
			p.begin(ctx, h, fd, from)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF):
			return
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
		default:
			// Most of all EMFILE, at which what waits goes on being ready.
			p.grumbler.warn(h.name, "connections wait", os.NewSyscallError("accept", err))
			p.rest(h)
			return
		}
	}
}

// begin starts the goroutine of an accepted connection, unless there are too many.
func (p *Proxy) begin(ctx context.Context, h *held, fd int, from unix.Sockaddr) {
	ctx, end := context.WithCancel(ctx)
	f := &flow{client: addrPort(from).Addr(), end: end}
	route, full, ok := h.join(f)
	if !ok {
		if full != nil {
			p.refuse(h, "connections", full)
		}
		end()
		reset(fd)
		return
	}
	p.flows.Go(func() {
		defer h.part(f)
		defer end()
		client, err := tcpConn(fd)
		if err != nil {
			p.grumbler.warn(h.name, "connections reset", err)
			return
		}
		p.carry(ctx, route, client, from)
	})
}

// carry connects an accepted client with its container, and returns when they are
// done.
func (p *Proxy) carry(ctx context.Context, route Route, client *net.TCPConn, from unix.Sockaddr) {
	addr, zone := zoned(from)
	to := route.target(addr.Addr(), client.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
	if !to.IsValid() || p.options.Refuse(addr, zone) {
		abort(client)
		return
	}
	server, err := p.connect(ctx, to)
	if err != nil {
		p.grumbler.log.WithError(err).Debug("proxy: connection reset")
		abort(client)
		return
	}
	relay(ctx, client, server)
}

func (p *Proxy) connect(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.options.Connect)
	defer cancel()
	server, err := p.options.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return server.(*net.TCPConn), nil
}

// zoned is a client with the interface that is the zone of its address.
func zoned(from unix.Sockaddr) (client netip.AddrPort, ifindex int) {
	client = addrPort(from)
	if from, ok := from.(*unix.SockaddrInet6); ok && client.Addr().Is6() {
		ifindex = int(from.ZoneId)
	}
	return inZone(client, ifindex), ifindex
}

func inZone(client netip.AddrPort, ifindex int) netip.AddrPort {
	if addr := client.Addr(); addr.Is6() && addr.IsLinkLocalUnicast() {
		return netip.AddrPortFrom(addr.WithZone(strconv.Itoa(ifindex)), client.Port())
	}
	return client
}

// tcpConn makes of a descriptor what io.Copy can splice. The descriptor is closed.
func tcpConn(fd int) (*net.TCPConn, error) {
	file := os.NewFile(uintptr(fd), "tcp")
	conn, err := net.FileConn(file) // of a duplicate
	if err != nil {
		noLinger(fd)
		_ = file.Close()
		return nil, err
	}
	return conn.(*net.TCPConn), file.Close()
}

// alive finds out within two minutes that a silent peer is gone, which else holds its
// connection forever.
func alive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
}

// relay passes all that either side says to the other one, and its silence too: the
// end of one direction is not that of the other. It ends with ctx at the latest.
func relay(ctx context.Context, client, server *net.TCPConn) {
	both := []*net.TCPConn{client, server}
	stop := context.AfterFunc(ctx, func() { abort(both...) })
	defer stop()
	for _, conn := range both {
		_ = conn.SetKeepAliveConfig(alive())
	}
	var directions sync.WaitGroup
	directions.Go(func() { pass(server, client) })
	pass(client, server)
	directions.Wait()
	for _, conn := range both {
		_ = conn.Close()
	}
}

// pass is one direction of a relay. If either side fails, the other one is told by a
// reset, as it would be without us between.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil || to.CloseWrite() != nil {
		abort(to, from)
	}
}

// abort closes connections with a reset.
func abort(conns ...*net.TCPConn) {
	for _, conn := range conns {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
}

// reset is abort for a bare descriptor.
func reset(fd int) {
	noLinger(fd)
	_ = unix.Close(fd)
}

// noLinger lets a descriptor reset its connection when it is closed.
func noLinger(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
