package proxy

import (
	"container/list"
	"net/netip"
	"sync"
)

// limits bound how many connections of TCP there are at once, or sessions of UDP.
type limits struct {
	mu    sync.Mutex // of all shares below, and of the sessions of all sockets
	whole share
}

func newLimits(most int) limits {
	return limits{whole: share{most: most, full: "as many are open as may be"}}
}

// open counts what there is.
func (l *limits) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole.n
}

// share is how many there may be of something, and are. One socket may have half of the
// whole, and one client half of what a socket has: nobody takes all that others need.
type share struct {
	n, most int
	full    string    // what is said then
	waiting list.List // the sessions that are not settled, first the one whose client is silent longest
}

// half is a new share of a share.
func (s *share) half(full string) *share { return &share{most: max(1, s.most/2), full: full} }

// shares are those that something counts towards: its client's, its socket's, the whole.
type shares [3]*share

// shares are what a client's next connection or session counts towards. limits.mu is held.
func (h *held) shares(client netip.Addr) shares {
	c := h.clients[client]
	if c == nil {
		c = h.own.half("the client has its share of those that the port may have")
	}
	return shares{c, h.own, &h.limits.whole}
}

// full is the first share that has no room, or nil. limits.mu is held.
func (s shares) full() *share {
	for _, each := range s {
		if each.n >= each.most {
			return each
		}
	}
	return nil
}

// enter counts one more. limits.mu is held.
func (h *held) enter(client netip.Addr, s shares) {
	h.clients[client] = s[0]
	for _, each := range s {
		each.n++
	}
}

// exit takes back what enter did. limits.mu is held.
func (h *held) exit(client netip.Addr, s shares) {
	for _, each := range s {
		each.n--
	}
	if s[0].n == 0 {
		delete(h.clients, client)
	}
}
