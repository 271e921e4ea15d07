package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// streamPatience is how long a number may be under way: a machine of tests may stand still
// for seconds, while what was lost for good never comes.
const streamPatience = 20 * time.Second

// Stream is a TCP connection that carries numbers to a server and back, fifty a second.
// The test fails unless all of them come back in their order.
type Stream struct {
	t    testing.TB
	what string
	conn *net.TCPConn
	stop func()

	ended chan struct{} // closed when nothing is sent any more
	sent  uint64
	err   error // of sending

	heard   chan struct{} // closed when nothing comes back any more
	back    uint64
	silence time.Duration // the longest between two numbers that came back
	broken  error         // of what comes back
}

// EchoStreams sends back what comes, on a TCP port of the machine, until the test ends.
func (h *Host) EchoStreams(port int) {
	h.t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			serving.Go(func() {
				_, _ = io.Copy(conn, conn) // the other end tells what is missing
				conn.Close()
			})
		}
	})
	h.t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
}

// Stream begins one with an address at which EchoStreams answers. It ends with the test.
func (h *Host) Stream(what, address string) *Stream {
	h.t.Helper()
	var conn net.Conn
	var err error
	h.Do(func() { conn, err = net.DialTimeout("tcp", address, hello.Patience) })
	if err != nil {
		h.t.Fatalf("%s: %s: %v", what, h.name, err)
	}
	s := &Stream{t: h.t, what: what, conn: conn.(*net.TCPConn), ended: make(chan struct{}), heard: make(chan struct{})}
	end := make(chan struct{})
	s.stop = sync.OnceFunc(func() { close(end); s.settle() })
	go s.send(end)
	go s.listen()
	h.t.Cleanup(s.stop)
	return s
}

// Stop ends it and returns the longest silence that there was.
func (s *Stream) Stop() time.Duration {
	s.t.Helper()
	s.stop()
	return s.silence
}

func (s *Stream) send(end <-chan struct{}) {
	defer close(s.ended)
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-end:
			s.err = s.conn.CloseWrite()
			return
		case <-pace.C:
		}
		if _, s.err = s.conn.Write(binary.BigEndian.AppendUint64(nil, s.sent)); s.err != nil {
			return
		}
		s.sent++
	}
}

// listen takes what comes back until its end.
func (s *Stream) listen() {
	defer close(s.heard)
	for last := time.Now(); ; s.back++ {
		var number [8]byte
		_ = s.conn.SetReadDeadline(time.Now().Add(streamPatience)) // reading tells
		_, err := io.ReadFull(s.conn, number[:])
		s.silence = max(s.silence, time.Since(last))
		last = time.Now()
		if errors.Is(err, io.EOF) {
			return
		}
		if got := binary.BigEndian.Uint64(number[:]); err == nil && got != s.back {
			err = fmt.Errorf("number %d came back", got)
		}
		if err != nil {
			s.broken = fmt.Errorf("instead of number %d: %w", s.back, err)
			return
		}
	}
}

// settle waits for what is on its way, and compares.
func (s *Stream) settle() {
	<-s.ended
	<-s.heard
	s.conn.Close()
	if err := errors.Join(s.err, s.broken); err != nil || s.back != s.sent || s.sent == 0 {
		s.t.Errorf("stream %s: of %d numbers %d came back: %v", s.what, s.sent, s.back, err)
	}
}
