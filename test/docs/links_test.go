package docs

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\[([^][]*)\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	// fence is a block of code, in which a comment looks like a heading.
	fence = regexp.MustCompile("(?ms)^```.*?^```")
	// testName is that of a test from end to end.
	testName = regexp.MustCompile(`^Test[A-Z]\w*$`)
)

// TestDocsLinkToWhatThereIs follows each link of each page within this module: to a file,
// to a heading of another page and, where its text is the name of a test, to that test.
func TestDocsLinkToWhatThereIs(t *testing.T) {
	module := os.DirFS("../..")
	for _, page := range pages(t, module) {
		for _, m := range link.FindAllStringSubmatch(read(t, module, page), -1) {
			text, to := m[1], m[2]
			if strings.Contains(to, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(to, "#")
			name := page
			if file != "" {
				name = path.Join(path.Dir(page), file)
			}
			switch found, err := fs.Stat(module, name); {
			case err != nil:
				t.Errorf("%s: [%s]: %v", page, text, err)
			case anchor != "" && !slices.Contains(anchors(read(t, module, name)), anchor):
				t.Errorf("%s: [%s]: %s has no heading for #%s", page, text, name, anchor)
			case testName.MatchString(text) && (found.IsDir() || !strings.Contains(read(t, module, name), "\nfunc "+text+"(")):
				t.Errorf("%s: no test %s is in %s", page, text, name)
			}
		}
	}
}

// pages are those at the top and in docs.
func pages(t *testing.T, module fs.FS) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := fs.Glob(module, pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(found), err)
		}
		all = append(all, found...)
	}
	return all
}

func read(t *testing.T, module fs.FS, name string) string {
	t.Helper()
	text, err := fs.ReadFile(module, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// anchors are the names by which a page's headings are linked to.
func anchors(page string) []string {
	var all []string
	dropped := regexp.MustCompile(`[^\w\- ]`)
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		all = append(all, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}
