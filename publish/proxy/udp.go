package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
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
			p.rest(h)
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
	s, ours := h.find(t)
	switch {
	case ours:
		return
	case p.options.Refuse(inZone(d.client, d.ifindex), d.ifindex):
		// One that came in elsewhere may be forged: the session is somebody else's then.
		if s != nil && s.ifindex == d.ifindex {
			s.end()
		}
		return
	case s != nil && p.pass(s, d):
		return
	}
	// There was no session, or its last moment had come: that of this datagram has not.
	if s = p.open(ctx, h, d); s != nil {
		p.pass(s, d)
	}
}

// pass sends a datagram to the container, or ends the session that cannot.
func (p *Proxy) pass(s *session, d datagram) (sent bool) {
	s.heard.Store(int64(time.Since(p.began)))
	err := s.send(d.data)
	if err != nil {
		s.end()
	}
	return err == nil
}

// find is the session of a client that speaks, if there is one, or reports that the
// client is another session of ours.
func (h *held) find(t talk) (s *session, ours bool) {
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	if h.answers[h.asks(t)] > 0 {
		return nil, true
	}
	if s = h.sessions[t]; s != nil {
		s.speak()
	}
	return s, false
}

// leads is where the socket leads a client to.
func (h *held) leads(t talk) netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.route.target(t.client.Addr(), t.local)
}

// open begins a session; nil if that cannot be.
func (p *Proxy) open(ctx context.Context, h *held, d datagram) *session {
	t := d.talk()
	to := h.leads(t)
	if !to.IsValid() {
		return nil
	}
	if full := h.makeRoom(t.client.Addr()); full != nil {
		p.refuse(h, "sessions", full)
		return nil
	}
	conn, err := p.options.Dial(ctx, "udp", to.String())
	if err != nil {
		p.grumbler.warn(h.name, "datagrams dropped", err)
		return nil
	}
	s := &session{held: h, talk: t, ifindex: d.ifindex, to: to, conn: conn.(*net.UDPConn)}
	s.raw, err = s.conn.SyscallConn()
	s.peer, s.from = t.answer(h.is4)
	s.heard.Store(int64(time.Since(p.began)))
	if err != nil || !h.admit(s) {
		_ = conn.Close()
		return nil
	}
	p.flows.Go(func() {
		p.answer(s)
		s.end()
	})
	return s
}

// makeRoom ends sessions in which the client has not spoken again after an answer, the
// longest silent ones, if a client needs room for one more. Whoever asks from port after
// port, in vain or one question each, shall not keep others from being answered. A share is
// returned that has no such session.
func (h *held) makeRoom(client netip.Addr) *share {
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	for {
		full := h.shares(client).full()
		if full == nil || full.waiting.Len() == 0 {
			return full
		}
		full.waiting.Front().Value.(*session).close()
	}
}
