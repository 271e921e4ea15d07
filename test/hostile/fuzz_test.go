package hostile_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// recorded are what engines have sent, one call a line.
func recorded(f *testing.F) []string {
	f.Helper()
	files, err := filepath.Glob("../../driver/testdata/engine-*.jsonl")
	if err != nil || len(files) == 0 {
		f.Fatalf("no recordings: %v", err)
	}
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var calls strings.Builder
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			var step struct {
				Call    string
				Request json.RawMessage
			}
			if err := json.Unmarshal(lines.Bytes(), &step); err != nil {
				f.Fatal(err)
			}
			if step.Call != "" {
				calls.WriteString(step.Call + " " + string(step.Request) + "\n")
			}
		}
		all = append(all, calls.String())
	}
	return all
}

// poolName stands in recordings for a pool's ID, of which a part is random.
var poolName = regexp.MustCompile(`"PoolID":"pool ([^"]+)"`)

// maxCalls is how many calls of a conversation are looked at: short ones are tried more often.
const maxCalls = 16

// FuzzCalls sends calls to the whole driver, one a line, and looks after each at what
// must hold whatever was asked.
func FuzzCalls(f *testing.F) {
	for _, calls := range recorded(f) {
		lines := strings.SplitAfter(calls, "\n")
		for i := 0; i < len(lines); i += maxCalls / 2 { // each piece begins within the one before
			f.Add(strings.Join(lines[i:min(i+maxCalls, len(lines))], ""))
		}
	}
	f.Fuzz(func(t *testing.T, calls string) {
		m := newUnserved(t)
		handler := driver.New(m.engine, m.pools, obstacles, m.logger).Handler()
		for i, line := range strings.SplitAfterN(calls, "\n", maxCalls+1) {
			if i == maxCalls {
				break
			}
			path, body, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			body = poolName.ReplaceAllStringFunc(body, func(name string) string { return m.poolID(name) })
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
			req.URL.Path = path
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			answer := answerLine(w.Code, w.Body.String())
			if w.Code == http.StatusInternalServerError || strings.Contains(answer, "no JSON") {
				t.Fatalf("%s: %s", line, answer)
			}
			if strings.HasPrefix(answer, "< refused") {
				checkText(t, line, answer, 2200)
			}
			m.checkSound(t, line)
		}
		m.checkLog(t)
	})
}

// poolID is the ID of the pool that a recording names.
func (m *memory) poolID(name string) string {
	prefix := poolName.FindStringSubmatch(name)[1]
	for _, p := range m.pools.Pools() {
		if p.Prefix.String() == prefix {
			name = `"PoolID":"` + p.ID + `"`
		}
	}
	return name
}

// A name that goes to the kernel, into a path or to another program is this and no more.
var safeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}$`)

// checkSound fails the test unless State, Store and host agree as soon as the links that go
// have gone, and all names are such as can go anywhere.
func (m *memory) checkSound(t *testing.T, what string) {
	t.Helper()
	m.engine.Await(t.Context())
	now := m.engine.Now()
	if stored, err := m.store.Load(); err != nil || stored.Networks != now.State.Networks {
		t.Fatalf("%s: the State is not saved: %v", what, err)
	}
	if drift, err := m.host.Check(t.Context(), now.Plan); err != nil || len(drift) > 0 {
		t.Fatalf("%s: the host is not as planned: %v, %v", what, drift, err)
	}
	var published []spec.Port
	for _, n := range now.State.Networks.All() {
		if err := n.Check(); err != nil {
			t.Fatalf("%s: network %s: %v", what, n.ID, err)
		}
		names := append([]string{plan.BridgeName(n), string(n.Key)}, n.Trusted...)
		for _, ep := range n.Endpoints.All() {
			names = append(names, plan.VethName(ep), plan.PeerName(ep))
			if path := ep.Sandbox; path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
				t.Fatalf("%s: sandbox %q", what, path)
			}
			for _, a := range ep.Addresses() {
				if holder, held := n.Holder(a.Addr()); !held || holder != ep.ID {
					t.Fatalf("%s: %s has %s, of which the network says %s", what, ep.ID, a, holder)
				}
			}
			published = append(published, ep.Ports...)
		}
		for _, name := range names {
			if !safeName.MatchString(name) {
				t.Fatalf("%s: a name %q", what, name)
			}
		}
	}
	if _, err := spec.JoinPorts(published); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
