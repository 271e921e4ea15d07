package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

const (
	// clients are how many ask at the same time.
	clients = 8
	// patience is how long one of them waits for an answer.
	patience = 5 * time.Second
)

// rate counts how often in a second a machine can begin a connection, have a question
// answered and end it, with some clients that do nothing else.
func rate(h *lab.Host, server netip.AddrPort, during time.Duration) (float64, error) {
	var asked atomic.Int64
	failed := make(chan error, clients)
	to := &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	start := time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			h.Do(func() {
				for time.Since(start) < during {
					if err := ask(to); err != nil {
						failed <- err
						return
					}
					asked.Add(1)
				}
			})
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return 0, fmt.Errorf("ask %s: %w", server, err)
	default:
		return float64(asked.Load()) / time.Since(start).Seconds(), nil
	}
}

// ask is one connection. It ends with a reset, so that no client runs out of ports for
// those that wait for their last segments.
func ask(server unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(patience))
	if err := errors.Join(
		// A socket with a time-out for sending would have connect interrupted by signals.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds())),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Connect(fd, server),
	); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("hello\n")); err != nil {
		return err
	}
	answer := make([]byte, 128)
	for {
		n, err := unix.Read(fd, answer)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n == 0:
			return errors.New("the server hung up")
		default:
			return err
		}
	}
}
