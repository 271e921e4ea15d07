package drawbridge_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/drawbridge-net/drawbridge"

// listed is what go list -json tells of a package.
type listed struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func (p listed) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

// allowed reads the table of ARCHITECTURE.md: for each package what it may import.
func allowed(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	table := map[string][]string{}
	inTable := false
	for line := range strings.Lines(string(text)) {
		switch cells := strings.Split(line, "|"); {
		case strings.HasPrefix(line, "| package |"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable && len(cells) == 6 && quoted.MatchString(cells[1]):
			name := quoted.FindStringSubmatch(cells[1])[1]
			table[name] = []string{}
			for _, ours := range quoted.FindAllStringSubmatch(cells[3], -1) {
				table[name] = append(table[name], module+"/"+ours[1])
			}
			for _, lib := range quoted.FindAllStringSubmatch(cells[4], -1) {
				table[name] = append(table[name], lib[1])
			}
		}
	}
	return table
}

func TestPackagesImportOnlyWhatTheTableAllows(t *testing.T) {
	table := allowed(t)
	seen := map[string]bool{}
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "test/") || strings.HasSuffix(p.name(), "test") || p.name() == "" {
			continue // what only tests use
		}
		may, ok := table[p.name()]
		if !ok {
			t.Errorf("package %s is not in the table of ARCHITECTURE.md", p.name())
		}
		seen[p.name()] = true
		for _, imported := range p.Imports {
			isStd := !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".")
			fits := func(a string) bool {
				return imported == a || !strings.HasPrefix(a, module) && strings.HasPrefix(imported, a+"/")
			}
			everybodys := imported == module+"/failpoint"
			if !isStd && !everybodys && !slices.ContainsFunc(may, fits) {
				t.Errorf("package %s imports %s, which the table of ARCHITECTURE.md does not allow", p.name(), imported)
			}
		}
	}
	for name := range table {
		if !seen[name] {
			t.Errorf("the table of ARCHITECTURE.md has package %s, the module has not", name)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	banned := []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "types", "models", "pkg"}
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("package %s has no comment", p.name())
		}
		for _, part := range strings.Split(p.name(), "/") {
			if slices.Contains(banned, part) {
				t.Errorf("package %s: the name %q says nothing", p.name(), part)
			}
		}
	}
}

// TestOnlyFirewallsStartPrograms since what a request says must reach none unchecked. Who
// does so hands over words, and not a line for a shell to take apart.
func TestOnlyFirewallsStartPrograms(t *testing.T) {
	may := []string{"firewall", "firewall/iptables", "firewall/foreign"}
	shell := regexp.MustCompile(`"(/bin/)?(sh|bash)"`)
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "test/") || strings.HasSuffix(p.name(), "test") {
			continue // what only tests use
		}
		if slices.Contains(p.Imports, "os/exec") && !slices.Contains(may, p.name()) {
			t.Errorf("package %s starts programs", p.name())
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.name(), file))
			if err != nil {
				t.Fatal(err)
			}
			if shell.Match(text) {
				t.Errorf("%s/%s names a shell", p.name(), file)
			}
		}
	}
}
