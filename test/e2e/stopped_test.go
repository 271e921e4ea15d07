package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelStoppingNeedsNoLinksToGo of which a request was told that they go, be their network
// the last one or not: they go at the next start.
func TestKernelStoppingNeedsNoLinksToGo(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]bool{"others": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := lab.NewHost(t) // it has no uplink, of which something would be put back
			s := &troubled{Alone: host.Alone(), t: t}
			before := host.Snapshot()
			f := s.Failpoints()
			s.MustStart()
			if others {
				s.must(s.addNetwork(2))
			}
			s.must(s.addNetwork(1))
			bridge := "dbr" + networkOf(1)[:12]
			f.Order("hold 0 ^link .* of " + networkOf(1))
			s.must(s.removeNetwork(1))
			host.Run("ip", "link", "show", bridge)
			begun := time.Now()
			s.Stop()
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("it took %s to stop", took)
			}
			f.Withdraw()
			s.MustStart()
			if out, err := host.Try("ip", "link", "show", bridge); err == nil || !strings.Contains(out+err.Error(), "does not exist") {
				t.Errorf("the bridge is there again: %s %v", out, err)
			}
			if others {
				s.must(s.removeNetwork(2))
			}
			s.Stop()
			if diff := before.Diff(host.Snapshot()); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
		})
	}
}
