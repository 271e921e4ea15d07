package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drawbridge-net/drawbridge/firewall/nftables"
)

func TestOnlyALackIsTakenAtItsFirstWord(t *testing.T) {
	for _, row := range []struct {
		err   error
		tries int
	}{
		{syscall.EOPNOTSUPP, 1},
		{syscall.EPERM, 1},
		{nftables.ErrBridgeless, 1},
		{syscall.ENOBUFS, tries},
		{syscall.ENOMEM, tries},
		{syscall.EBUSY, tries},
		{os.ErrDeadlineExceeded, tries},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			err := patiently(t.Context(), func() error {
				n++
				return fmt.Errorf("a trial: %w", row.err)
			})
			if n != row.tries || !errors.Is(err, row.err) {
				t.Errorf("%v: %d tries, want %d; %v", row.err, n, row.tries, err)
			}
		})
	}
}

func TestWhatIsOverInAMomentDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		err := patiently(t.Context(), func() error {
			if n++; n < tries {
				return syscall.ENOBUFS
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestNobodyWaitsLongerThanTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), pause/2)
		defer cancel()
		before := time.Now()
		if err := patiently(ctx, func() error { return syscall.EBUSY }); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("want the last error, got %v", err)
		}
		if waited := time.Since(before); waited != pause/2 {
			t.Errorf("waited %v", waited)
		}
	})
}
