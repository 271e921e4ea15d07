package link_test

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelForgottenContainersStayConnected when what was remembered of them is lost, until
// they end or all is removed.
func TestKernelForgottenContainersStayConnected(t *testing.T) {
	for _, end := range []string{"the container ends", "the engine takes it out", "all is removed"} {
		t.Run(end, func(t *testing.T) {
			m, sandbox := newMachine(t), lab.NewHost(t)
			// What the uplinks' settings were is forgotten too.
			uplinks := func(section, _ string) bool { return section == "sysctls" }
			before := m.Snapshot().Without(uplinks)
			m.mustApply(nil, m.plan(usual()...))
			sandbox.Do(func() { m.Run("ip", "link", "set", "dbpa10000000000", "netns", namespacePath()) })
			sandbox.Run("sh", "-ec", "ip link set dbpa10000000000 name eth0 up; ip addr add 10.1.0.2/24 dev eth0")
			sandbox.Serve("tcp", ":80")

			m.memory = memory{}
			m.kernel = m.open(m.memory)
			m.kernel.Distrust()
			nothing := m.plan()
			show := func() {
				t.Helper()
				m.mustBeAsPlanned(nothing)
				for name, want := range map[string]bool{"dbva10000000000": true, "dbraa0000000000": true, "dbva20000000000": false, "dbrbb0000000000": false} {
					if there, err := m.exists(name); there != want || err != nil {
						t.Errorf("%s is there: %t, %v, want %t", name, there, err, want)
					}
				}
				if notices := m.kernel.Notices(); len(notices) != 1 || !strings.Contains(notices[0], "ip link delete dbva10000000000") {
					t.Errorf("notices %q", notices)
				}
				m.MustReach("tcp", "10.1.0.2:80", "host")
			}
			m.mustApply(nil, nothing)
			show()
			m.kernel = m.open(m.memory) // which trusts, and knows even so
			m.mustApply(nil, nothing)
			show()

			switch end {
			case "the container ends":
				sandbox.Run("ip", "link", "del", "eth0")
				m.mustApply(nil, nothing)
			case "the engine takes it out":
				m.Do(func() {
					sandbox.Run("ip", "link", "set", "eth0", "down", "name", "dbpa10000000000", "netns", namespacePath())
				})
				m.mustApply(nil, nothing)
			case "all is removed":
				m.remove()
			}
			m.mustBeAsPlanned(nothing)
			if len(m.memory) > 0 || len(m.kernel.Notices()) > 0 {
				t.Errorf("it is remembered: %v %q", m.memory, m.kernel.Notices())
			}
			m.remove()
			if diff := before.Diff(m.Snapshot().Without(uplinks)); diff != "" {
				t.Errorf("the host is not as it was:\n%s", diff)
			}
		})
	}
}
