package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

const reachDir = "testdata/reach"

func TestTraceAgreesWithTheTable(t *testing.T) {
	got := reach.Golden{}
	for _, e := range reach.Engines() {
		for _, k := range reach.Kinds() {
			p, err := k.Plan(e.Host())
			if err != nil {
				t.Fatalf("%s: %v", k.Name, err)
			}
			got[reach.Of(k, e)] = k.Table(e.Traced(p))
		}
	}
	if golden.Update() {
		if err := got.Write(reachDir); err != nil {
			t.Fatal(err)
		}
	}
	want, err := reach.Read(reachDir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
