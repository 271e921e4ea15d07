// Package hello is the little protocol by which tests learn who reached whom:
// a client sends a line, the server answers with its own name and with the
// client's address as the server sees it. It measures nothing and encrypts
// nothing.
package hello

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Patience is how long an answer that should come may take on a busy machine;
// Impatience is how long an answer that must not come is waited for.
const (
	Patience   = 5 * time.Second
	Impatience = 700 * time.Millisecond
)

// Answer is what a server told a client.
type Answer struct {
	Server string         // the server's name, e.g. c1
	Client netip.AddrPort // where the server saw the question come from
}

// String renders the answer as it goes over the wire, e.g. "c1 192.0.2.2:40000".
func (a Answer) String() string { return a.Server + " " + a.Client.String() }

// Parse reads what String wrote.
func Parse(line string) (Answer, error) {
	server, client, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		return Answer{}, fmt.Errorf("answer %q: want a name and an address", line)
	}
	addr, err := netip.ParseAddrPort(client)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", line, err)
	}
	return Answer{Server: server, Client: addr}, nil
}

// Verdict is the fate of a question.
type Verdict string

// The fates that a test can tell apart.
const (
	Accept Verdict = "accept" // a server answered
	Refuse Verdict = "refuse" // a reset or an ICMP error came back: nobody listens, or a firewall rejects
	Drop   Verdict = "drop"   // silence until the deadline
)

// Judge turns what Ask returned into a verdict.
func Judge(err error) Verdict {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return Accept
	case errors.As(err, &timeout) && timeout.Timeout():
		return Drop
	default:
		return Refuse
	}
}

// Conn is a conversation with one server. Asking again and again over TCP
// shows that an established flow lives on.
type Conn struct {
	conn   net.Conn
	stream *bufio.Reader // nil for datagrams
}

// Dial begins a conversation. The network is tcp or udp with an optional 4 or
// 6, the address an IP address and a port. The socket is made in the calling
// goroutine, hence in the network namespace of its thread.
func Dial(network, address string, wait time.Duration) (*Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		// A name would be resolved, and dialled, in other goroutines.
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	dialer := net.Dialer{Timeout: wait}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn}
	if strings.HasPrefix(network, "tcp") {
		c.stream = bufio.NewReader(conn)
	}
	return c, nil
}

// Ask puts one question and waits for its answer.
func (c *Conn) Ask(wait time.Duration) (Answer, error) {
	deadline := time.Now().Add(wait)
	if c.stream == nil {
		return c.askDatagram(deadline)
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return Answer{}, err
	}
	if _, err := c.conn.Write([]byte("hello\n")); err != nil {
		return Answer{}, err
	}
	line, err := c.stream.ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	return Parse(line)
}

// askDatagram repeats the question, since datagrams may be lost while a
// neighbour is looked up.
func (c *Conn) askDatagram(deadline time.Time) (Answer, error) {
	buf := make([]byte, 512)
	for {
		if _, err := c.conn.Write([]byte("hello\n")); err != nil {
			return Answer{}, err
		}
		next := time.Now().Add(200 * time.Millisecond)
		if next.After(deadline) {
			next = deadline
		}
		if err := c.conn.SetReadDeadline(next); err != nil {
			return Answer{}, err
		}
		n, err := c.conn.Read(buf)
		if err == nil {
			return Parse(string(buf[:n]))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(deadline) {
			return Answer{}, err
		}
	}
}

// LocalAddr returns the client's own end.
func (c *Conn) LocalAddr() netip.AddrPort { return addrPort(c.conn.LocalAddr()) }

// Close ends the conversation.
func (c *Conn) Close() error { return c.conn.Close() }

// Ask dials, asks once and hangs up. The whole takes at most wait.
func Ask(network, address string, wait time.Duration) (Answer, error) {
	start := time.Now()
	c, err := Dial(network, address, wait)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	return c.Ask(wait - time.Since(start))
}

// addrPort converts what package net speaks; an IPv4 address stays one even on
// a socket that serves both families.
func addrPort(addr net.Addr) netip.AddrPort {
	a, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
