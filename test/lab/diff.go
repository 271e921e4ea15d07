package lab

import (
	"fmt"
	"strings"
)

// Diff says how a later snapshot differs from s: a line for each section that
// does, followed by what went (-) and what came (+). It is empty if nothing did.
func (s Snapshot) Diff(later Snapshot) string {
	var b strings.Builder
	for i := range max(len(s), len(later)) {
		var name string
		var before, after []string
		if i < len(s) {
			name, before = s[i].Name, s[i].Lines
		}
		if i < len(later) {
			name, after = later[i].Name, later[i].Lines
		}
		if changes := diffLines(before, after); len(changes) > 0 {
			fmt.Fprintf(&b, "%s:\n  %s\n", name, strings.Join(changes, "\n  "))
		}
	}
	return b.String()
}

// diffLines compares by longest common subsequence. Equal ends are cut off
// first, so the table stays as small as the change.
func diffLines(before, after []string) []string {
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	// common[i][j] is the length of the subsequence of before[i:] and after[j:].
	common := make([][]int, len(before)+1)
	for i := range common {
		common[i] = make([]int, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if before[i] == after[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var changes []string
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			i, j = i+1, j+1
		case j == len(after) || i < len(before) && common[i+1][j] >= common[i][j+1]:
			changes = append(changes, "- "+before[i])
			i++
		default:
			changes = append(changes, "+ "+after[j])
			j++
		}
	}
	return changes
}
