package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// dialTimeout bounds the question whether anybody lives behind a socket.
const dialTimeout = time.Second

// Listen makes the socket that an engine finds us by. It appears at its path ready
// to be used, since an engine that finds a socket and gets no answer gives the
// driver up until its own restart. The socket of a dead process is replaced, that
// of a living one is left alone.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := checkDead(path); err != nil {
		return nil, err
	}
	// Nobody but us can look into it, so nobody connects before the mode is set.
	hidden, err := os.MkdirTemp(dir, ".drawbridge-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(hidden) }() // what is left of it is empty
	temporary := filepath.Join(hidden, "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it knows the temporary name only
	s := &socket{UnixListener: l, path: path}
	if err := s.show(temporary); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// checkDead reports an error unless a new socket may take the path.
func checkDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is something that is no socket: %s", info.Mode())
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil: // too busy to answer, say
		return fmt.Errorf("see whether another process answers there: %w", err)
	}
	return errors.Join(errors.New("another process answers there"), conn.Close())
}

// socket takes its name along when it is closed.
type socket struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

// show moves the socket to its path.
func (s *socket) show(from string) error {
	if err := os.Chmod(from, 0o660); err != nil {
		return err
	}
	made, err := os.Lstat(from)
	if err != nil {
		return err
	}
	s.made = made
	return os.Rename(from, s.path)
}

// Addr is where the socket can be found.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close removes the socket from its path, unless another one has taken it.
func (s *socket) Close() error {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.made) {
		return errors.Join(os.Remove(s.path), s.UnixListener.Close())
	}
	return s.UnixListener.Close()
}
