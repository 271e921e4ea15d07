package nftables

import (
	"context"
	"errors"
	"testing"

	"github.com/drawbridge-net/drawbridge/firewall/firewalltest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelNoPacketNotices what is done to locked tables, and that they change hands.
func TestKernelNoPacketNotices(t *testing.T) {
	for name, disturb := range map[string]func(m *machine, p *plan.Plan){
		"a flush of the ruleset": func(m *machine, _ *plan.Plan) { m.Run("nft", "flush", "ruleset") },
		"a table that somebody deletes": func(m *machine, _ *plan.Plan) {
			m.mustBeRefused("delete", "table", "inet", tableName)
			m.mustBeRefused("delete", "table", "bridge", tableName)
		},
		"a daemon that goes and another that comes": func(m *machine, p *plan.Plan) {
			m.f.Close()
			next := newMachine(m.t, m.Host)
			next.apply(nil, p)
			*m = *next
		},
		"an error after which the layer connects anew": func(m *machine, _ *plan.Plan) {
			m.Do(func() { _ = m.f.with(context.Background(), func(*conn) error { return errors.New("any") }) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m *machine
			var wanted *plan.Plan
			b := backend()
			b.Protect = func(t testing.TB, h *lab.Host, p *plan.Plan) {
				t.Helper()
				m, wanted = newOwner(t, h), p
				m.apply(nil, p)
			}
			b.Wipe = func(_ testing.TB, h *lab.Host) {
				m.locked()
				m.f.Close()
				h.Run("nft", "flush", "ruleset")
			}
			firewalltest.NoGap(t, b, func(*lab.Host) { disturb(m, wanted) })
		})
	}
}
