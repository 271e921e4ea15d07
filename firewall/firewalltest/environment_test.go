package firewalltest

import (
	"slices"
	"testing"
)

func TestEachTwoSettingsMeet(t *testing.T) {
	few := pairwise()
	met := map[meeting]bool{}
	for _, e := range few {
		t.Log(e)
		for _, m := range e.meetings() {
			met[m] = true
		}
	}
	values := settings()
	for i := range values {
		for j := range i {
			for _, a := range values[i] {
				for _, b := range values[j] {
					if !met[meeting{i, j, a, b}] {
						t.Errorf("%s and %s never meet", a, b)
					}
				}
			}
		}
	}
	if most := len(values[engine])*len(values[backend]) + 4; len(few) > most {
		t.Errorf("%d environments, want no more than %d", len(few), most)
	}
	if again := pairwise(); !slices.Equal(few, again) {
		t.Errorf("another time others are chosen: %v", again)
	}
}
