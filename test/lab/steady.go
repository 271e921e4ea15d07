package lab

import (
	"sync"
	"testing"
)

// Steadily asks over and over until stop is called. The test fails unless every answer
// was right, and there was more than one.
func Steadily(t testing.TB, what string, ask func() error) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	asked := 0
	var failed error
	go func() {
		defer close(ended)
		for failed == nil {
			select {
			case <-end:
				return
			default:
				failed = ask()
				asked++
			}
		}
	}()
	return sync.OnceFunc(func() {
		t.Helper()
		close(end)
		<-ended
		if failed != nil || asked < 2 {
			t.Errorf("%s: question %d: %v", what, asked, failed)
		}
	})
}
