package spec

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/drawbridge-net/drawbridge/test/golden"
)

func TestDocsOfOptionsAreThoseOfTheTables(t *testing.T) {
	page := template.Must(template.ParseFiles("testdata/options.md"))
	var b strings.Builder
	err := page.Execute(&b, map[string]string{
		"Network":  options(t, networkOptions()),
		"Endpoint": options(t, endpointOptions()),
		"Engine":   settings(t, engineSettings()),
		"Flags":    settings(t, engineFlags()),
	})
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "../docs/options.md", linkTests(t, b.String()))
}

func options[T any](t *testing.T, table []option[T]) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| key | value | what it does | here |\n| --- | --- | --- | --- |\n")
	for _, o := range table {
		o.check(t, o.key)
		fmt.Fprintf(&b, "| `%s` | %s | %s | **%s**: %s |\n", o.key, o.values(t), o.does, o.verdict, o.proof)
	}
	return b.String()
}

func settings(t *testing.T, table []setting) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| setting | what it does | here |\n| --- | --- | --- |\n")
	for _, s := range table {
		s.check(t, s.name)
		fmt.Fprintf(&b, "| %s | %s | **%s**: %s |\n", s.name, s.does, s.verdict, s.proof)
	}
	return b.String()
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
	for _, key := range dockersKey.FindAllString(p.proof, -1) {
		if !slices.ContainsFunc(networkOptions(), func(o option[Network]) bool { return o.key == key }) {
			t.Errorf("%s: %s is no key of a network", name, key)
		}
	}
}

var (
	dockersKey = regexp.MustCompile(`com\.docker\.network\.[\w.]+`)

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
