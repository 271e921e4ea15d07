package firewall

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

const (
	tries = 4
	pause = 250 * time.Millisecond
)

// patiently tries until it works or tells of a lack, but not for ever. A busy kernel is
// no reason to do without what it has: the other firewall would be built, and this one
// again at the next start.
func patiently(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || tellsOfLack(err) || n == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// tellsOfLack reports whether the kernel has not what it was asked for, or lets us not
// have it. Any other error may be over in a moment: no memory, a full buffer, a timeout.
func tellsOfLack(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT, syscall.ENOPROTOOPT, syscall.ENOSYS,
		syscall.ENOENT, syscall.EINVAL, syscall.ERANGE, syscall.E2BIG, syscall.EPERM, syscall.EACCES,
	}, func(lack error) bool { return errors.Is(err, lack) })
}
