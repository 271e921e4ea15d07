// Package socket makes unix sockets that are never more open than they shall be, and
// that whoever finds them can use at once.
//
// It serves nobody: what is said on a socket is its owner's business.
package socket

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

// longest is what the kernel takes for the path of a socket, without the byte that ends it
// (unix(7)).
const longest = 107

// Listen makes a socket with the permissions of mode, e.g. 0o660. It appears at its path
// ready to be used, since an engine that finds a socket and gets no answer gives the
// driver up until its own restart. The socket of a dead process is replaced; that of a
// living one, and what is no socket, are left alone and are an error.
func Listen(path string, mode os.FileMode) (net.Listener, error) {
	l, err := listen(path, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := checkDead(path); err != nil {
		return nil, err
	}
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	temporary := filepath.Join(hidden, "s")
	if more := len(temporary) - longest; more > 0 {
		return nil, fmt.Errorf("its path is %d bytes long, want %d at most", len(path), len(path)-more)
	}
	// Nobody but us can look into it, so nobody connects before the mode is set, whatever
	// the umask. One that is there was left by a process that was killed in here.
	if err := errors.Join(os.RemoveAll(hidden), os.Mkdir(hidden, 0o700)); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(hidden) }() // what is left of it is empty
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it knows the temporary name only
	s := &socket{UnixListener: l, path: path}
	if err := s.show(temporary, mode); err != nil {
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
		return fmt.Errorf("there is something that is no socket (%s): move it away", info.Mode())
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
func (s *socket) show(from string, mode os.FileMode) error {
	if err := os.Chmod(from, mode); err != nil {
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
