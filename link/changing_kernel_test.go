package link_test

import (
	"strings"
	"testing"
)

// TestKernelWhatIsBeingChangedIsNotPolled since it may be half made.
func TestKernelWhatIsBeingChangedIsNotPolled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.mustApply(nil, m.plan(usual()...))
	m.Set("net/ipv4/conf/dbraa0000000000/route_localnet", "0")
	m.Set("net/ipv4/conf/eth0/forwarding", "0")
	var before, amid, after string
	m.Do(func() {
		before = m.kernel.Straying()
		done := m.kernel.Begin("dbraa0000000000")
		amid = m.kernel.Straying()
		done()
		after = m.kernel.Straying()
	})
	if before != after || !strings.Contains(before, "dbraa0000000000") {
		t.Errorf("before %q, after %q", before, after)
	}
	if strings.Contains(amid, "dbraa0000000000") || !strings.Contains(amid, "eth0") {
		t.Errorf("amid a change: %q", amid)
	}
}
