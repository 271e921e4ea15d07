package proxy

import "net/netip"

// way is where a datagram comes from and goes to, without zones.
type way struct{ from, to netip.AddrPort }

// asks is the way of a client's datagrams.
func (h *held) asks(t talk) way {
	return way{from: t.client, to: netip.AddrPortFrom(t.local, h.port)}
}

// back is the way of their answers.
func (w way) back() way { return way{from: w.to, to: w.from} }

// ways are those that the answers of all sessions go. What comes by one of them is no
// client's: somebody has asked a published port in the name of another one, or of the
// same, and it is the answer. If it were served, an echo would never end. Nothing else
// tells: the kernel takes datagrams of IPv6 in the host's own name from outside, and says
// of its own, too, that they came in by the interface that has the address.
type ways map[way]int // sessions, which may differ in the interface alone

// count adds sessions to a way, or takes them away.
func (w ways) count(x way, sessions int) {
	if w[x] += sessions; w[x] == 0 {
		delete(w, x)
	}
}
