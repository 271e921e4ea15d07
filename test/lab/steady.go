package lab

import (
	"sync"
	"testing"
	"time"
)

// Steadily asks some fifty times a second until stop is called or the test ends, and twice
// at least. The test fails unless every answer was right.
func Steadily(t testing.TB, what string, ask func() error) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	asked := 0
	var failed error
	go func() {
		defer close(ended)
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		over := end
		for failed == nil && (over != nil || asked < 2) {
			select {
			case <-over:
				over = nil
			case <-pace.C:
				failed = ask()
				asked++
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(end)
		<-ended
		if failed != nil {
			t.Errorf("%s: question %d: %v", what, asked, failed)
		}
	})
	t.Cleanup(stop)
	return stop
}
