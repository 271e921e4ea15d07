package driver_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/golden"
)

// step is a line of testdata/engine-*.jsonl: a call of an engine, or the death of a
// container whose engine could not tell us of it.
type step struct {
	Call    string
	Request json.RawMessage
	Dies    string // the host's end of its veth pair
}

// poolName stands in the recorded requests where an engine returns a pool's ID, of
// which a part is random.
var (
	poolName = regexp.MustCompile(`"PoolID":"pool ([^"]+)"`)
	poolID   = regexp.MustCompile(`"PoolID":"([^"]+)-[A-Z0-9]{8}"`)
)

func TestRecordedEnginesGetTheAnswersTheyExpect(t *testing.T) {
	files, err := filepath.Glob("testdata/engine-*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		t.Run(name, func(t *testing.T) {
			golden.Equal(t, "testdata/"+name+".golden", replay(t, file))
		})
	}
}

// replay sends what an engine sent, in its order, and returns calls and answers.
func replay(t *testing.T, file string) string {
	r := newRig(t)
	pools := map[string]string{} // prefix -> ID
	var out strings.Builder
	for _, s := range steps(t, file) {
		if s.Dies != "" {
			r.host.Delete("link " + s.Dies)
			fmt.Fprintf(&out, "dies %s\n", s.Dies)
			continue
		}
		body := poolName.ReplaceAllStringFunc(string(s.Request), func(m string) string {
			return fmt.Sprintf(`"PoolID":%q`, pools[poolName.FindStringSubmatch(m)[1]])
		})
		if body == "null" {
			body = ""
		}
		status, answer := r.send(s.Call, body)
		if m := poolID.FindStringSubmatch(answer); m != nil {
			pools[m[1]] = strings.Split(m[0], `"`)[3]
		}
		fmt.Fprintf(&out, "%s%s\n  %d %s\n", strings.TrimPrefix(s.Call, "/"), about(s.Request), status, poolID.ReplaceAllString(answer, `"PoolID":"$1-…"`))
	}
	fmt.Fprintf(&out, "left on the host:\n%s", r.onHost())
	return out.String()
}

// about says of a request what a reader needs to judge the answer.
func about(request json.RawMessage) string {
	var r struct {
		EndpointID, Pool, Address string
		Interface                 struct{ Address, AddressIPv6, MacAddress string }
		Options                   map[string]json.RawMessage
	}
	if err := json.Unmarshal(request, &r); err != nil {
		return ""
	}
	text := ""
	for _, part := range []string{
		r.EndpointID[:min(len(r.EndpointID), 12)], r.Pool, r.Address,
		r.Interface.Address, r.Interface.AddressIPv6, r.Interface.MacAddress,
		string(r.Options["com.docker.network.portmap"]),
	} {
		if part != "" && part != "[]" {
			text += " " + part
		}
	}
	return text
}

func steps(t *testing.T, file string) []step {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []step
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		var s step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, s)
	}
	return all
}
