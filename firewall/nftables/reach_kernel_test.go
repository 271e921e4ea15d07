package nftables

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestKernelPacketsAgreeWithTheTable asks everything that plan.Trace is asked.
func TestKernelPacketsAgreeWithTheTable(t *testing.T) {
	tables, err := reach.Read("../../plan/testdata/reach")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range reach.Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for silence
			p, err := k.Plan()
			if err != nil {
				t.Fatal(err)
			}
			v := scene.NewVillage(t, p, func(h *lab.Host) { newMachine(t, h).apply(nil, p) })
			v.Agrees(k, tables[k.Name], func() map[string]int { return drops(t, v.Host) })
		})
	}
}

var dropRule = regexp.MustCompile(`counter packets (\d+) bytes \d+ drop comment "([^"]+)"`)

// drops is what each rule has dropped, by its comment.
func drops(t *testing.T, h *lab.Host) map[string]int {
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
