package bench

import (
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/drawbridge-net/drawbridge/test/golden"
)

func TestDocsTellWhatWasMeasured(t *testing.T) {
	var runs []*Run
	files, err := filepath.Glob(noted("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		r, err := readRun(file)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	var page strings.Builder
	if err := template.Must(template.ParseFiles("testdata/performance.md")).Execute(&page, runs); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "../../docs/performance.md", page.String())
}
