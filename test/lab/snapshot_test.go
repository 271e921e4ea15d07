package lab

import (
	"slices"
	"testing"
)

func TestPictureOfATableIsTheSameWhoeverOwnsIt(t *testing.T) {
	owned := "table inet a { # progname drawbridge\n\tflags owner\n\tchain c {\n\t\taccept\n\t}\n}\n"
	want := []string{"table inet a", "table inet a: flags owner", "table inet a: chain c", "table inet a: chain c: accept"}
	if got := ruleset(owned); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
