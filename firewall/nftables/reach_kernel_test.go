package nftables

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/drawbridge-net/drawbridge/firewall/firewalltest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// backend is this firewall for those who judge it by packets.
func backend() firewalltest.Backend {
	return firewalltest.Backend{
		Name: firewalltest.NFTables,
		Protect: func(t testing.TB, h *lab.Host, p *plan.Plan) {
			t.Helper()
			m := newMachine(t, h)
			m.apply(nil, p)
			m.f.Close() // as a daemon that ends: others may change what it leaves
		},
		Layer:   func(t testing.TB, h *lab.Host) firewalltest.Applier { t.Helper(); return newMachine(t, h).f },
		Drops:   drops,
		Wipe:    func(_ testing.TB, h *lab.Host) { h.Run("nft", "delete", "table", "inet", tableName) },
		Command: "iptables-nft",
	}
}

func TestKernelPackets(t *testing.T) { firewalltest.Packets(t, backend()) }

func TestKernelPacketsAgreeWithTheTable(t *testing.T) {
	firewalltest.Table(t, backend())
}

func TestKernelWhoGetsAPacketIsWhomThePlanNames(t *testing.T) {
	firewalltest.Market(t, backend())
}

var dropRule = regexp.MustCompile(`counter packets (\d+) bytes \d+ drop comment "([^"]+)"`)

// drops is what each rule has dropped, by its comment.
func drops(t testing.TB, h *lab.Host) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, family := range []string{"inet", "bridge"} {
		for _, found := range dropRule.FindAllStringSubmatch(h.Run("nft", "list", "table", family, tableName), -1) {
			n, err := strconv.Atoi(found[1])
			if err != nil {
				t.Fatal(err)
			}
			count[found[2]] += n
		}
	}
	return count
}
