package lab

import (
	"strings"
	"testing"
)

func TestDiffKeepsOrderAndShowsOnlyWhatChanged(t *testing.T) {
	for _, row := range []struct{ name, before, after, want string }{
		{"equal texts differ in nothing", "a b c", "a b c", ""},
		{"a line that came", "a c", "a b c", "+ b"},
		{"a line that went", "a b c", "a c", "- b"},
		{"a line that became another", "a b c", "a x c", "- b + x"},
		{"order matters", "a b", "b a", "- a + a"},
		{"from nothing", "", "a", "+ a"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := strings.Join(diffLines(strings.Fields(row.before), strings.Fields(row.after)), " ")
			if got != row.want {
				t.Errorf("diff of %q and %q: %q, want %q", row.before, row.after, got, row.want)
			}
		})
	}
}
