package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// Confined are words in front of a command that leave it these system calls, by their names,
// and sockets of these families, by their numbers. Whoever calls another one is ended by it
// (test/lab/confine). Names that this architecture does not know are left out.
func Confined(t testing.TB, calls []string, families []int) []string {
	t.Helper()
	known := systemCalls(t)
	var numbers []string
	for _, name := range calls {
		if n, ok := known[name]; ok {
			numbers = append(numbers, n)
		}
	}
	return []string{
		goBuild(t, "test/lab/confine"), "-calls", strings.Join(numbers, ","),
		"-families", strings.Trim(strings.ReplaceAll(fmt.Sprint(families), " ", ","), "[]"),
	}
}

// systemCalls are the numbers of this architecture's, as golang.org/x/sys has them from the
// kernel's headers.
func systemCalls(t testing.TB) map[string]string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	table, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "zsysnum_linux_"+runtime.GOARCH+".go"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*= (\d+)$`).FindAllStringSubmatch(string(table), -1) {
		known[strings.ToLower(line[1])] = line[2]
	}
	return known
}
