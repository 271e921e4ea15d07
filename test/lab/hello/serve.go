package hello

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// Server answers questions on one address until it is closed.
type Server struct {
	addr string
	stop func() // ends the accepting or reading
	done sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once closed
}

// Serve answers as name on network (tcp or udp, with an optional 4 or 6) and
// address. The socket is made in the calling goroutine, hence in the network
// namespace of its thread.
func Serve(network, address, name string) (*Server, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	s := &Server{conns: map[net.Conn]bool{}}
	if strings.HasPrefix(network, "udp") {
		pc, err := lc.ListenPacket(context.Background(), network, address)
		if err != nil {
			return nil, fmt.Errorf("serve: %w", err)
		}
		s.addr, s.stop = pc.LocalAddr().String(), func() { pc.Close() }
		s.done.Go(func() { answerDatagrams(pc, name) })
		return s, nil
	}
	l, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s.addr, s.stop = l.Addr().String(), func() { l.Close() }
	s.done.Go(func() { s.accept(l, name) })
	return s, nil
}

// Addr returns where the server listens, e.g. 0.0.0.0:80.
func (s *Server) Addr() string { return s.addr }

// Close ends the server and every conversation, and waits for both.
func (s *Server) Close() {
	s.stop()
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.done.Wait()
}

func (s *Server) accept(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		open := s.conns != nil
		if open {
			s.conns[conn] = true
		}
		s.mu.Unlock()
		if !open {
			conn.Close()
			return
		}
		s.done.Go(func() { s.answerStream(conn, name) })
	}
}

func (s *Server) answerStream(conn net.Conn, name string) {
	answer := Answer{Server: name, Client: addrPort(conn.RemoteAddr())}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := io.WriteString(conn, answer.String()+"\n"); err != nil {
			break
		}
	}
	conn.Close()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}

func answerDatagrams(pc net.PacketConn, name string) {
	buf := make([]byte, 512)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		answer := Answer{Server: name, Client: addrPort(from)}
		// A client that is gone is none of the server's business.
		_, _ = pc.WriteTo([]byte(answer.String()+"\n"), from)
	}
}
