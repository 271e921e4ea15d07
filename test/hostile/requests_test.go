// Package hostile sends what no engine sends: to the driver over a host in memory, and to
// the daemon in a network namespace of its own. Each request of testdata must be answered
// in the words that stand there, and must leave everything as it was.
package hostile_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// request is one of testdata: a line that names it, one with the call behind ">", and one
// with the answer behind "<".
type request struct {
	name    string
	verb    string // e.g. POST
	path    string // e.g. NetworkDriver.Join
	body    string
	chunked bool // its length is not told beforehand
	want    string
}

// page is one file of requests.
type page struct {
	file  string
	lines []string
	all   []*request
	at    []int // the line of each one's answer
}

// pages reads all files of testdata but some.
func pages(t *testing.T, without ...string) []*page {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	var all []*page
	for _, file := range files {
		if slices.Contains(without, filepath.Base(file)) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, readPage(t, file, string(text)))
	}
	return all
}

func readPage(t *testing.T, file, text string) *page {
	t.Helper()
	p := &page{file: file, lines: strings.Split(text, "\n")}
	name := ""
	for i, line := range p.lines {
		mark, rest, _ := strings.Cut(line, " ")
		switch {
		case mark == ">":
			p.all = append(p.all, readRequest(name, rest))
		case mark == "<" && len(p.all) == len(p.at)+1:
			p.all[len(p.at)].want = line
			p.at = append(p.at, i)
		case mark == "<":
			t.Fatalf("%s:%d: an answer without a request", file, i+1)
		case line != "" && mark != "#":
			name = line
		}
	}
	if len(p.at) != len(p.all) {
		t.Fatalf("%s: a request without an answer", file)
	}
	return p
}

var verb = regexp.MustCompile(`^[A-Z]+ `)

// readRequest reads e.g. NetworkDriver.Leave {…}, before which another verb than POST may
// stand, or that it comes in chunks. To publish is short for the ports of an endpoint.
func readRequest(name, text string) *request {
	r := &request{name: name, verb: "POST"}
	if m := verb.FindString(text); m != "" {
		r.verb, text = m[:len(m)-1], text[len(m):]
	}
	text, r.chunked = strings.CutPrefix(text, "chunked ")
	if bindings, ok := strings.CutPrefix(text, "publish "); ok {
		text = `NetworkDriver.ProgramExternalConnectivity {${ids},"Options":{"${portmap}":[` + bindings + `]}}`
	}
	r.path, r.body, _ = strings.Cut(text, " ")
	return r
}

// render is the page with other answers.
func (p *page) render(answers []string) string {
	lines := slices.Clone(p.lines)
	for i, answer := range answers {
		lines[p.at[i]] = answer
	}
	return strings.Join(lines, "\n")
}

// words are what stands for more in requests.
type words map[string]string

// fill replaces words by what they stand for: names, and besides ${times 3 a} for aaa, ${open 3} and
// ${close 3} for three braces, and ${bytes 0d 0a} for what no text file should hold.
func (w words) fill(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		inner, behind := matching(t, rest)
		out.WriteString(w.one(t, inner))
		text = behind
	}
}

// matching cuts at the brace that ends a word, within which others may open and close.
func matching(t *testing.T, text string) (inner, behind string) {
	t.Helper()
	depth := 1
	for i, c := range text {
		switch c {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth == 0 {
			return text[:i], text[i+1:]
		}
	}
	t.Fatalf("a word that does not end: %.80s", text)
	return "", ""
}

func (w words) one(t *testing.T, inner string) string {
	t.Helper()
	name, rest, _ := strings.Cut(inner, " ")
	switch name {
	case "blank":
		return " "
	case "bytes":
		raw, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
		if err != nil {
			t.Fatalf("${%s}: %v", inner, err)
		}
		return string(raw)
	case "open":
		return strings.Repeat(`{"a":`, count(t, rest))
	case "close":
		return strings.Repeat("}", count(t, rest))
	case "times":
		number, piece, _ := strings.Cut(rest, " ")
		return strings.Repeat(w.fill(t, piece), count(t, number))
	}
	value, known := w[name]
	if !known {
		t.Fatalf("${%s} stands for nothing", inner)
	}
	return value
}

func count(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// answerLine is how an answer stands in testdata.
func answerLine(status int, body string) string {
	var texts struct{ Err, Error string }
	body = strings.TrimSuffix(body, "\n")
	switch err := json.Unmarshal([]byte(body), &texts); {
	case err != nil:
		return fmt.Sprintf("< %d no JSON: %q", status, body)
	case texts.Err != texts.Error:
		return fmt.Sprintf("< %d not the same under both keys: %s", status, body)
	case texts.Err == "":
		return "< " + body
	case status == 200:
		return "< refused: " + texts.Err
	}
	return fmt.Sprintf("< %d: %s", status, texts.Err)
}
