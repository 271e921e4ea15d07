// Package golden compares what the code says with what it said when a person last
// agreed: texts in files, which -update writes anew. It knows nothing of what they say.
package golden

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew") //nolint:gochecknoglobals // flags of tests are registered so

// Update reports whether golden files are to be written, for tests with more than one.
func Update() bool { return *update }

// Equal fails the test unless the file says the same.
func Equal(t testing.TB, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil { //nolint:gosec // for everybody to read
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s; if it is to be so, make golden (-want +got):\n%s", file, diff)
	}
}
