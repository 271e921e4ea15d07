package main

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// ground is what a daemon claims of its network namespace. A name of this kind
// (abstract, unix(7)) belongs to the namespace and not to a file system, so a service
// of the host and a managed plugin, which see no file of each other's, meet there.
const ground = "@drawbridge"

// claim reports an error if a daemon works in this network namespace already: what one
// planned and the other did not, that one would take off the host. The claim ends with
// the listener, or with the process.
func claim(name string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: name, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	conn, err := net.DialUnix("unix", nil, addr)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", name, err)
	}
	defer conn.Close()
	if peer, err := credentials(conn); err != nil || peer.Uid == 0 {
		return nil, errors.Join(errors.New("another drawbridge works on this host, as a service or as a managed plugin"), err)
	}
	return nil, nil // anybody may take such a name, and only root's says something
}

// credentials are those of whoever listens.
func credentials(conn *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil {
		return nil, controlErr
	}
	return peer, err
}
