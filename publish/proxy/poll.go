package proxy

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll waits for many descriptors. It is an epoll instance which in turn the runtime
// waits for, as for any file: so no thread is blocked, and whoever waits is
// interrupted by a deadline.
type poll struct {
	file *os.File
	conn syscall.RawConn
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what the runtime tells such files by
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &poll{file, conn}, nil
}

func (p *poll) add(fd int, id uint64) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(id), Pad: int32(id >> 32)})
}

func (p *poll) remove(fd int) error { return p.control(unix.EPOLL_CTL_DEL, fd, nil) }

func (p *poll) control(op, fd int, event *unix.EpollEvent) (err error) {
	if gone := p.conn.Control(func(self uintptr) { err = unix.EpollCtl(int(self), op, fd, event) }); gone != nil {
		return gone
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// wait appends the IDs of what is ready, as soon as there is any. Each is named
// again as long as it is ready, behind the others.
func (p *poll) wait(ids []uint64) ([]uint64, error) {
	var events [64]unix.EpollEvent
	var n int
	var err error
	if failed := p.conn.Read(func(self uintptr) bool {
		n, err = unix.EpollWait(int(self), events[:], 0)
		return n != 0
	}); failed != nil {
		return ids, failed
	}
	for _, e := range events[:max(n, 0)] {
		ids = append(ids, uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32)
	}
	return ids, os.NewSyscallError("epoll_wait", err)
}

// interrupt lets wait return os.ErrDeadlineExceeded, now and ever after.
func (p *poll) interrupt() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

func (p *poll) close() { _ = p.file.Close() }
