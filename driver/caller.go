package driver

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
)

// callers are the processes that asked us something: engines.
type callers struct {
	mu  sync.Mutex
	ids map[int]bool
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
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			id = int(cred.Pid)
		}
	})
	return id
}

// hear takes down who asks.
func (c *callers) hear(ctx context.Context) {
	id, _ := ctx.Value(callerKey{}).(int)
	if id == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = map[int]bool{}
	}
	c.ids[id] = true
}

// others reports whether anybody else who asked is still alive.
func (c *callers) others(ctx context.Context) bool {
	id, _ := ctx.Value(callerKey{}).(int)
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.ids {
		if other == id {
			continue
		}
		if !errors.Is(syscall.Kill(other, 0), syscall.ESRCH) {
			return true
		}
		delete(c.ids, other)
	}
	return false
}
