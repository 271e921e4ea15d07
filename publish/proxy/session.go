package proxy

import (
	"container/list"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// session is what one client says to one local address, by a socket of its own, so
// that the container's answers find back.
type session struct {
	held    *held
	talk    talk
	ifindex int            // of the interface that the client's first datagram came in by
	to      netip.AddrPort // the container
	conn    *net.UDPConn
	raw     syscall.RawConn
	peer    unix.Sockaddr // the client, as the held socket calls it
	from    []byte        // a control message: what answers leave from
	heard   atomic.Int64  // when either side last spoke, in ns since the proxy began

	answered atomic.Bool // by the container
	settled  atomic.Bool // the client has spoken again after that: it is no single question

	shares shares
	queue  queue // until it is settled
}

// errRefused ends the session of a client who is refused by now.
var errRefused = errors.New("client refused")

// queue is where a session stands that has to give way if need be: in each of its shares.
type queue [3]*list.Element

// admit lets a session be found, unless the socket no longer leads where it does.
func (h *held) admit(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	client := s.talk.client.Addr()
	if h.gone || h.route.target(client, s.talk.local) != s.to {
		return false
	}
	h.limits.mu.Lock()
	defer h.limits.mu.Unlock()
	h.sessions[s.talk] = s
	h.answers.count(h.asks(s.talk).back(), 1)
	s.shares = h.shares(client)
	h.enter(client, s.shares)
	s.wait()
	return true
}

// end ends a session.
func (s *session) end() {
	s.held.limits.mu.Lock()
	defer s.held.limits.mu.Unlock()
	s.close()
}

// close ends a session, of whose talk there may be another one meanwhile. limits.mu is
// held.
func (s *session) close() {
	_ = s.conn.Close()
	h := s.held
	if h.sessions[s.talk] == s {
		delete(h.sessions, s.talk)
		h.answers.count(h.asks(s.talk).back(), -1)
		h.exit(s.talk.client.Addr(), s.shares)
		s.leave()
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
func (p *Proxy) answer(s *session) {
	for {
		quiet := p.options.Idle
		if s.settled.Load() {
			quiet = p.options.Talk
		}
		until := p.began.Add(time.Duration(s.heard.Load()) + quiet)
		if !time.Now().Before(until) || s.conn.SetReadDeadline(until) != nil {
			return
		}
		var err error
		for err == nil {
			if err = p.answerOnce(s); err == nil {
				s.answered.Store(true)
				s.heard.Store(int64(time.Since(p.began)))
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// answerOnce passes on one datagram. A buffer is taken only when there is one.
func (p *Proxy) answerOnce(s *session) error {
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
	if p.options.Refuse(inZone(s.talk.client, s.ifindex), s.ifindex) {
		return errRefused
	}
	// What cannot be sent now is lost, as datagrams may be. And it is sent out here, since
	// whoever closes the session waits for the above, and has the lock.
	_ = s.held.use(func(fd int) error {
		_, err := unix.SendmsgN(fd, buffer[:n], s.from, s.peer, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return err
	})
	return nil
}

// wait puts a session at the end of the queues. limits.mu is held.
func (s *session) wait() {
	for i, each := range s.shares {
		s.queue[i] = each.waiting.PushBack(s)
	}
}

// speak notes that the client speaks. What it says after an answer settles the session,
// which then leaves the queues; else it stands at their end again. limits.mu is held.
func (s *session) speak() {
	if s.answered.Load() {
		s.settled.Store(true)
		s.leave()
	}
	for i, at := range s.queue {
		if at != nil {
			s.shares[i].waiting.MoveToBack(at)
		}
	}
}

// leave takes a session out of the queues. limits.mu is held.
func (s *session) leave() {
	for i, at := range s.queue {
		if at != nil {
			s.shares[i].waiting.Remove(at)
		}
	}
	s.queue = queue{}
}
