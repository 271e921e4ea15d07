package link_test

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// isolated are the ports of bridges that are.
func (m *machine) isolated() string {
	m.t.Helper()
	var names []string
	for line := range strings.Lines(m.Run("bridge", "-details", "link", "show")) {
		switch fields := strings.Fields(line); {
		case strings.HasSuffix(fields[0], ":"):
			name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
			names = append(names, name)
		case !strings.Contains(line, " isolated on "):
			names = names[:len(names)-1]
		}
	}
	return strings.Join(names, " ")
}

// TestKernelABlindFirewallIsHelpedByThePorts also on a bridge that others have ports
// on: only those of containers that are to be kept apart are isolated.
func TestKernelABlindFirewallIsHelpedByThePorts(t *testing.T) {
	m := newMachine(t)
	m.Run("sh", "-ec", "ip link add br-lan type bridge; ip link add lan0 type veth peer name lan1; ip link set lan0 master br-lan up")
	states := []func(*spec.State){
		adjusted("aa", func(n *spec.Network) { n.Apart = true }, "10.1.0.0/24"),
		endpoint("aa", "a1", "10.1.0.2/24"),
		adjusted("bb", func(n *spec.Network) { n.Apart, n.Bridge = true, "br-lan" }, "10.2.0.0/24"),
		endpoint("bb", "b1", "10.2.0.2/24"),
		network("cc", "10.3.0.0/24"),
		endpoint("cc", "c1", "10.3.0.2/24"),
	}
	planned := func(blind bool) *plan.Plan {
		host := m.look()
		host.Blind = blind
		return planFor(host, states...)
	}
	sees, blind := planned(false), planned(true)
	const ports = "dbva10000000000 dbvb10000000000"
	for _, step := range []struct {
		name       string
		have, want *plan.Plan
		isolated   string
	}{
		{"at first", nil, blind, ports},
		{"it sees", blind, sees, ""},
		{"it is blind", sees, blind, ports},
		{"it sees, and nobody remembers", nil, sees, ""},
		{"it is blind, and nobody remembers", nil, blind, ports},
	} {
		m.mustApply(step.have, step.want)
		m.mustBeAsPlanned(step.want)
		if got := m.isolated(); got != step.isolated {
			t.Errorf("%s: isolated are %q, want %q", step.name, got, step.isolated)
		}
	}
	m.Run("bridge", "link", "set", "dev", "dbva10000000000", "isolated", "off")
	if got, want := m.check(blind), "link dbva10000000000 isolated: want on, got off"; got != want {
		t.Errorf("want drift %q, got %q", want, got)
	}
	m.Run("ip", "link", "set", "dbvb10000000000", "nomaster")
	m.mustApply(nil, blind)
	m.mustBeAsPlanned(blind)
	m.remove()
	if got := m.isolated(); got != "" {
		t.Errorf("isolated are %q after all was removed", got)
	}
}
