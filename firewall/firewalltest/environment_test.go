package firewalltest

import (
	"slices"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/reach"
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

// TestEveryKindIsAsked in one environment or another.
func TestEveryKindIsAsked(t *testing.T) {
	tables, err := reach.Read(golden)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []Backend{{Name: NFTables}, {Name: IPTablesNFT, NeedsBridged: true}, {Name: IPTablesLegacy, NeedsBridged: true}} {
		asked := map[string]bool{} // by name of the table that it has
		for _, e := range environments(b) {
			for _, k := range e.kinds(b, tables) {
				asked[tables[reach.Of(k, e.neighbour())]] = true
			}
		}
		for _, e := range environments(b) {
			for _, k := range reach.Kinds() {
				if name := reach.Of(k, e.neighbour()); !asked[tables[name]] {
					t.Errorf("%s: %s is never asked", b.Name, name)
				}
			}
		}
	}
}
