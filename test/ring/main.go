// Command ring runs one ring of tests, `go test -json` with the arguments
// given, and prints what a person wants to read of it: failures in full, skips
// with their reasons, go test's closing lines, the failures once more in short,
// and a count. It fails if a test failed, if no test passed, or if a test was
// skipped for anything else than a feature that the kernel lacks. It chooses no
// tests and knows none.
//
//	ring kernel -run '^TestKernel' ./...
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// excuse is what the reason of every skip must contain.
const excuse = "kernel lacks"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: ring NAME GO-TEST-ARGUMENTS…")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "ring %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func run(name string, args []string, out io.Writer) error {
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := report{out: out, output: map[test][]string{}}
	readErr := r.read(events)
	testErr := cmd.Wait()
	for _, lines := range r.failures {
		fmt.Fprint(out, lines)
	}
	fmt.Fprintf(out, "%s: %d passed, %d failed, %d skipped\n", name, r.passed, r.failed, len(r.skips))
	fmt.Fprintf(out, "ring %s took %s\n", name, time.Since(start).Round(time.Second))
	if readErr != nil {
		return readErr
	}
	return r.judge(testErr)
}

// test is the name of one test, e.g. {plan, TestX/a_row}.
type test struct{ pkg, name string }

// event is one line of `go test -json`; see go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

type report struct {
	out            io.Writer
	output         map[test][]string // of tests that still run
	passed, failed int
	failures       []string // in short
	skips          []string // reasons
}

func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s", line) // go test says some things plainly
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test's output: %w", err)
		}
	}
}

func (r *report) take(e event) {
	t := test{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Action == "output" && e.Test == "":
		r.packageOutput(e.Output)
	case e.Action == "output":
		r.output[t] = append(r.output[t], e.Output)
	case e.Test == "":
		return // what becomes of a package is said by its closing line
	case e.Action == "pass":
		r.passed++
		delete(r.output, t)
	case e.Action == "fail":
		r.failed++
		fmt.Fprint(r.out, strings.Join(r.output[t], ""))
		r.failures = append(r.failures, inShort(r.output[t]))
		delete(r.output, t)
	case e.Action == "skip":
		reason := strings.Join(r.output[t], "")
		r.skips = append(r.skips, reason)
		fmt.Fprint(r.out, reason)
		delete(r.output, t)
	}
}

// inShort is what a failed test said where, two lines each, and what it panicked with, without
// the logs that it showed: these may be long enough to hide it.
func inShort(lines []string) string {
	var short strings.Builder
	said, more := 0, 0
	for _, line := range lines {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "--- FAIL"), strings.HasPrefix(line, "panic:"):
			short.WriteString(line)
			continue
		case where.MatchString(line):
			said++
			more = 2
		}
		if more--; more >= 0 && said <= 8 {
			line = strings.TrimSuffix(line, "\n")
			short.WriteString(line[:min(len(line), 400)] + "\n")
		}
	}
	return short.String()
}

// where is how the testing package begins what a test says.
var where = regexp.MustCompile(`^\s+\w+\.go:\d+: `)

// packageOutput passes on what belongs to no test: closing lines, panics and
// the complaints of TestMain, but not the many packages without such tests.
func (r *report) packageOutput(line string) {
	if line == "PASS\n" || strings.Contains(line, "[no test files]") || strings.Contains(line, "[no tests to run]") ||
		strings.HasPrefix(line, "testing: warning: no tests to run") {
		return
	}
	fmt.Fprint(r.out, line)
}

func (r *report) judge(testErr error) error {
	if testErr != nil {
		for t, lines := range r.output { // tests that a panic or a timeout cut off
			fmt.Fprintf(r.out, "--- CUT OFF: %s %s\n%s", t.pkg, t.name, strings.Join(lines, ""))
		}
		return fmt.Errorf("go test: %w", testErr)
	}
	if r.passed == 0 {
		return fmt.Errorf("no test passed")
	}
	for _, reason := range r.skips {
		if !strings.Contains(reason, excuse) {
			return fmt.Errorf("a test was skipped without saying what the %s: %s", excuse, reason)
		}
	}
	return nil
}
