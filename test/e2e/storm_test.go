package e2e

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestEngineAHundredContainersAtOnce has containers come and go by themselves on a few
// networks, while others of these are made and removed, and a bystander serves.
func TestEngineAHundredContainersAtOnce(t *testing.T) {
	const containers, networks, storms = 100, 5, 2
	eachEngine(t, func(s *site) {
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("bystander", "--network", "web", "-p", "8080:80")
		for i := range networks {
			s.network(fmt.Sprintf("n%d", i), "--ipv6")
		}
		stop := s.bystanderServes()
		begun := time.Now()
		errs := make([]error, containers)
		var runs, storm sync.WaitGroup
		var over atomic.Bool
		var made atomic.Int64
		for i := range errs {
			runs.Go(func() {
				_, errs[i] = s.TryFor(5*time.Minute, "docker", "run", "--rm", "--network", fmt.Sprintf("n%d", i%networks), "-p", "80", "lab", "true")
			})
		}
		failed := make([]error, storms)
		for i := range failed {
			storm.Go(func() {
				for !over.Load() && failed[i] == nil {
					failed[i] = s.comesAndGoes(fmt.Sprintf("storm%d", i))
					made.Add(1)
				}
			})
		}
		runs.Wait()
		over.Store(true)
		storm.Wait()
		for _, err := range append(errs, failed...) {
			if err != nil {
				s.t.Error(err)
			}
		}
		s.t.Logf("%d containers beside %d networks in %s", containers, made.Load(), time.Since(begun).Round(time.Second))
		stop()
		s.agree("after the storm")
	})
}

// comesAndGoes makes a network, with a subnet of Drawbridge's choice, and removes it.
func (s *site) comesAndGoes(name string) error {
	if _, err := s.TryDocker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--ipv6", name); err != nil {
		return err
	}
	_, err := s.TryDocker("network", "rm", name)
	return err
}
