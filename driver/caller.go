package driver

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// callers are the processes that asked us something: engines.
type callers struct {
	mu    sync.Mutex
	alive map[int]*os.Process // by their IDs
}

type callerKey struct{}

// withCaller has the requests of a connection know which process is at its other end.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, peer(conn))
}

// peer is the process at the other end of a unix socket; 0 for one that cannot be seen, as
// by a managed plugin, which has one engine only.
func peer(conn net.Conn) (id int) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			id = int(cred.Pid)
		}
	})
	return id
}

// hear takes down who asks, and lives, since he waits for an answer.
func (c *callers) hear(ctx context.Context) {
	id, _ := ctx.Value(callerKey{}).(int)
	if id == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget() // another process may have had this ID
	if c.alive[id] != nil {
		return
	}
	if c.alive == nil {
		c.alive = map[int]*os.Process{}
	}
	if p, err := os.FindProcess(id); err == nil {
		c.alive[id] = p
	}
}

// others reports whether anybody else who asked is still alive.
func (c *callers) others(ctx context.Context) bool {
	id, _ := ctx.Value(callerKey{}).(int)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
	for other := range c.alive {
		if other != id {
			return true
		}
	}
	return false
}

// forget drops who is dead.
func (c *callers) forget() {
	maps.DeleteFunc(c.alive, func(_ int, p *os.Process) bool { return ended(p) && p.Release() == nil })
}

// ended reports whether a process is no more, though its parent may not have taken note. It
// is asked by its pidfd, which never means another process that is given the same ID.
func ended(p *os.Process) (over bool) {
	err := p.WithHandle(func(pidfd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0) //nolint:gosec // a descriptor
		over = err == nil && n > 0
	})
	// Before Linux 5.4, where a filter forbids it, or if we had too many files open when he was
	// first heard, there is none as long as he lives: then whoever has the ID counts as alive,
	// and what the dead one left is found to be idle in minutes.
	if errors.Is(err, os.ErrNoHandle) {
		return errors.Is(p.Signal(unix.Signal(0)), os.ErrProcessDone)
	}
	return over
}
