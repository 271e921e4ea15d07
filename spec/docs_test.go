package spec

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

const docsHead = `<!-- Written by make golden from the tables in spec. -->

# Options

What Docker's own bridge networks can be told, and how it fares on a network of Drawbridge:

- **same**: it does here what it does there. The test behind the link shows it by packets or interfaces, on every engine that knows it.
- **ours**: another key does it here.
- **no**: nothing does it here, for the reason given.

A value that makes no sense is refused when it is given, by an error that names key and value. Keys of others are ignored, as Docker does;
one that begins with ` + "`drawbridge.`" + ` must be known.
`

const (
	networkHead = `
## Of a network

` + "`docker network create -d drawbridge -o KEY=VALUE`" + `, in compose ` + "`driver_opts`" + ` of a network.
`
	endpointHead = `
## Of a container on a network

` + "`docker run --network name=web,driver-opt=KEY=VALUE`" + `, ` + "`docker network connect --driver-opt KEY=VALUE`" + `, in compose ` + "`driver_opts`" + `
of a service's network. Docker's command lowers keys and values, so their case means nothing.
`
	engineHead = `
## What the engine reads for every driver

These never reach Drawbridge, or reach it as what every network has.
`
	flagHead = `
## Flags of dockerd

As on the command line or in ` + "`daemon.json`" + `. Those of docker0, Docker's default network, act on no other network, of Docker's or ours:
TestEngineFlagsOfDocker0LeaveOursAlone. What does the same for a network of ours stands beside them.
`
)

func TestDocsOfOptionsAreThoseOfTheTables(t *testing.T) {
	var b strings.Builder
	b.WriteString(docsHead + networkHead)
	writeOptions(t, &b, networkOptions())
	b.WriteString(endpointHead)
	writeOptions(t, &b, endpointOptions())
	b.WriteString(engineHead)
	writeSettings(t, &b, engineSettings())
	b.WriteString(flagHead)
	writeSettings(t, &b, engineFlags())
	golden(t, "../docs/options.md", linkTests(t, b.String()))
}

func writeOptions[T any](t *testing.T, b *strings.Builder, table []option[T]) {
	t.Helper()
	b.WriteString("\n| key | value | what it does | here |\n| --- | --- | --- | --- |\n")
	for _, o := range table {
		o.check(t, o.key)
		fmt.Fprintf(b, "| `%s` | %s | %s | **%s**: %s |\n", o.key, o.values(t), o.does, o.verdict, o.proof)
	}
}

func writeSettings(t *testing.T, b *strings.Builder, table []setting) {
	t.Helper()
	b.WriteString("\n| setting | what it does | here |\n| --- | --- | --- |\n")
	for _, s := range table {
		s.check(t, s.name)
		fmt.Fprintf(b, "| %s | %s | **%s**: %s |\n", s.name, s.does, s.verdict, s.proof)
	}
}

// values is what the parser itself says when a value makes no sense to it.
func (o option[T]) values(t *testing.T) string {
	t.Helper()
	_, err := o.parse("\x00")
	if err == nil {
		t.Errorf("%s takes any value", o.key)
		return ""
	}
	text, ok := strings.CutPrefix(err.Error(), "want ")
	if !ok {
		t.Errorf("%s: a refusal says what it wants, this one %q", o.key, err)
	}
	return text
}

// check holds a row to what its verdict means.
func (p parity) check(t *testing.T, name string) {
	t.Helper()
	switch {
	case p.does == "" || p.proof == "":
		t.Errorf("%s: nothing is told of it", name)
	case p.verdict == "same" && !testName.MatchString(p.proof):
		t.Errorf("%s: no test shows that it is the same here", name)
	case p.verdict == "ours" && !strings.Contains(p.proof, "`"):
		t.Errorf("%s: which key of ours?", name)
	}
}

var (
	testName = regexp.MustCompile(`\bTest[A-Z]\w*`)
	testFunc = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(t \*testing\.T\)`)
)

// linkTests makes links of the names of tests, each of which there must be.
func linkTests(t *testing.T, text string) string {
	t.Helper()
	files := testsByName(t)
	return testName.ReplaceAllStringFunc(text, func(name string) string {
		if files[name] == "" {
			t.Errorf("the tables name %s, which is no test", name)
		}
		return fmt.Sprintf("[%s](../%s)", name, files[name])
	})
}

// testsByName finds in which file of this module each test is.
func testsByName(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	module := os.DirFS("..")
	err := fs.WalkDir(module, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(module, path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			found[string(m[1])] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil { //nolint:gosec // for everybody to read
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what the tables say; make golden (-want +got):\n%s", path, diff)
	}
}
