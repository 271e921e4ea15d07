package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxDatagram is more than UDP can carry.
const maxDatagram = 1 << 16

// talk is what tells sessions of one socket apart.
type talk struct {
	client  netip.AddrPort // without zone
	local   netip.Addr     // the address of the host that the client asked, and is answered from
	ifindex int            // if either address is link-local, of the interface; else 0
}

// datagram is what a client sent.
type datagram struct {
	client  netip.AddrPort // without zone
	local   netip.Addr     // the address of the host that it was sent to
	ifindex int            // of the interface that it came in by
	data    []byte
}

// talk is the session that a datagram belongs to.
func (d datagram) talk() talk {
	t := talk{client: d.client, local: d.local}
	if d.local.IsLinkLocalUnicast() || d.client.Addr().IsLinkLocalUnicast() {
		t.ifindex = d.ifindex
	}
	return t
}

// session is what one client says to one local address, by a socket of its own, so
// that the container's answers find back.
type session struct {
	to    netip.AddrPort // the container
	conn  *net.UDPConn
	raw   syscall.RawConn
	peer  unix.Sockaddr // the client, as the held socket calls it
	from  []byte        // a control message: what answers leave from
	heard atomic.Int64  // when either side last spoke, in ns since the proxy began
}

// receive takes a burst of datagrams that wait.
func (p *Proxy) receive(ctx context.Context, h *held, buffer []byte) {
	var control [128]byte
	for range burst {
		var n, oobn int
		var from unix.Sockaddr
		err := h.use(func(fd int) (err error) {
			n, oobn, _, from, err = unix.Recvmsg(fd, buffer, control[:], unix.MSG_DONTWAIT)
			return err
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			p.grumbler.warn(h.name, "datagrams wait", os.NewSyscallError("recvmsg", err))
			h.rest(p.poll, breath)
			return
		}
		d := datagram{client: addrPort(from), data: buffer[:n]}
		if d.local, d.ifindex = arrival(control[:oobn]); d.local.IsValid() && !d.local.IsMulticast() {
			p.forward(ctx, h, d)
		}
	}
}

// forward hands a datagram to its session, a new one if need be.
func (p *Proxy) forward(ctx context.Context, h *held, d datagram) {
	t := d.talk()
	if p.answers.has(h.asks(t)) {
		return
	}
	h.mu.Lock()
	s, to, own := h.sessions[t], h.route.target(d.client.Addr(), d.local), len(h.sessions)
	h.mu.Unlock()
	if s == nil {
		if !to.IsValid() || p.options.Refuse(inZone(d.client, d.ifindex), d.ifindex) ||
			!p.room(h, "no new sessions", p.Stats().Sessions, own, p.options.Sessions) {
			return
		}
		if s = p.open(ctx, h, t, to); s == nil {
			return
		}
	}
	s.heard.Store(int64(time.Since(p.began)))
	if err := s.send(d.data); err != nil {
		h.mu.Lock()
		h.close(t, s)
		h.mu.Unlock()
	}
}

// open begins a session; nil if that cannot be.
func (p *Proxy) open(ctx context.Context, h *held, t talk, to netip.AddrPort) *session {
	conn, err := p.options.Dial(ctx, "udp", to.String())
	if err != nil {
		p.grumbler.warn(h.name, "datagrams dropped", err)
		return nil
	}
	s := &session{to: to, conn: conn.(*net.UDPConn)}
	s.raw, err = s.conn.SyscallConn()
	s.peer, s.from = t.answer(h.is4)
	s.heard.Store(int64(time.Since(p.began)))
	if err != nil || !h.admit(t, s) {
		_ = conn.Close()
		return nil
	}
	p.sessions.Add(1)
	p.flows.Go(func() {
		p.answer(h, s)
		h.mu.Lock()
		h.close(t, s)
		h.mu.Unlock()
		p.sessions.Add(-1)
	})
	return s
}

// admit lets a session be found, unless the socket no longer leads where it does.
func (h *held) admit(t talk, s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone || h.route.target(t.client.Addr(), t.local) != s.to {
		return false
	}
	h.sessions[t] = s
	h.answers.count(h.asks(t).back(), 1)
	return true
}

// close ends a session, of which there may be another one meanwhile. mu is held.
func (h *held) close(t talk, s *session) {
	_ = s.conn.Close()
	if h.sessions[t] == s {
		delete(h.sessions, t)
		h.answers.count(h.asks(t).back(), -1)
	}
}

// send passes a datagram to the container, or drops it if the container is not as
// fast. An error is one of an earlier datagram, or of the way to the container: a
// session is over then.
func (s *session) send(data []byte) error {
	var err error
	if gone := s.raw.Control(func(fd uintptr) {
		err = unix.Send(int(fd), data, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}); gone != nil {
		return gone
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE) {
		return nil
	}
	return err
}

// answer passes on what the container says until the session is closed, or fails, or
// both sides are silent for too long.
func (p *Proxy) answer(h *held, s *session) {
	quiet := p.options.Idle
	for {
		until := p.began.Add(time.Duration(s.heard.Load()) + quiet)
		if !time.Now().Before(until) || s.conn.SetReadDeadline(until) != nil {
			return
		}
		var err error
		for err == nil {
			if err = p.answerOnce(h, s); err == nil {
				quiet = p.options.Talk
				s.heard.Store(int64(time.Since(p.began)))
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// answerOnce passes on one datagram. A buffer is taken only when there is one.
func (p *Proxy) answerOnce(h *held, s *session) error {
	var buffer *[maxDatagram]byte
	var n int
	var err error
	if gone := s.raw.Read(func(fd uintptr) bool {
		buffer = p.buffers.Get().(*[maxDatagram]byte)
		if n, err = unix.Read(int(fd), buffer[:]); errors.Is(err, unix.EAGAIN) {
			p.buffers.Put(buffer)
			return false
		}
		return true
	}); gone != nil {
		return gone
	}
	defer p.buffers.Put(buffer)
	if err != nil {
		return err
	}
	// What cannot be sent now is lost, as datagrams may be. And it is sent out here, since
	// whoever closes the session waits for the above, and has the lock.
	_ = h.use(func(fd int) error {
		_, err := unix.SendmsgN(fd, buffer[:n], s.from, s.peer, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return err
	})
	return nil
}
