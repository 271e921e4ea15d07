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

// begin counts how often in a second a machine can begin a connection, have a question
// answered and end it, with some clients that do nothing else.
func begin(h *lab.Host, server netip.AddrPort, during time.Duration) (Connections, error) {
	var asked, spent atomic.Int64
	failed := make(chan error, clients)
	to := &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	start := time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			h.Do(func() {
				before, err := threadTime()
				for err == nil && time.Since(start) < during {
					err = ask(to)
					asked.Add(1)
				}
				after, timeErr := threadTime()
				spent.Add(int64(after - before))
				if err = errors.Join(err, timeErr); err != nil {
					failed <- err
				}
			})
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return Connections{}, fmt.Errorf("ask %s: %w", server, err)
	default:
	}
	return Connections{
		PerSecond: tenths(float64(asked.Load()) / time.Since(start).Seconds()),
		Cost:      tenths(time.Duration(spent.Load()/asked.Load()).Seconds() * 1e6),
	}, nil
}

// threadTime is what the processors have done for this thread so far. Where the kernel
// does not charge interrupts apart, that includes the way of a packet through the host
// and to the server, which goes in the time of whoever sends it.
func threadTime() (time.Duration, error) {
	var spent unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &spent)
	return time.Duration(spent.Nano()), err
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
