package scene

import (
	"context"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// Checker is the part of a layer that looks.
type Checker interface {
	Check(ctx context.Context, want *plan.Plan) ([]plan.Drift, error)
}

// Drift is where a machine differs from what a layer would have there, as text.
func Drift(t testing.TB, h *lab.Host, layer Checker, want *plan.Plan) []string {
	t.Helper()
	var found []plan.Drift
	var err error
	h.Do(func() { found, err = layer.Check(context.Background(), want) })
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, d := range found {
		lines = append(lines, d.String())
	}
	return lines
}
