package hostile_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/admin"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// machine is a daemon in a network namespace of its own.
type machine struct {
	*client
	host   *lab.Host
	daemon *lab.Alone
}

// newMachine has all that the vocabulary names, and another process on port 7000.
func newMachine(t *testing.T) *machine {
	t.Helper()
	h := lab.NewHost(t)
	h.Run("sh", "-ec", `ip link add eth0 type veth peer name far0
		for i in eth0 far0; do ip link set $i addrgenmode none up; done
		ip addr add 192.0.2.1/24 dev eth0`)
	h.Bind("tcp", netip.MustParseAddrPort("192.0.2.1:7000"))
	m := &machine{host: h, daemon: h.Alone()}
	m.daemon.Before = "umask 0" // so nothing is closed but what it closes itself
	m.daemon.MustStart("--firewall=nftables")
	m.client = &client{t, m.daemon.Socket(), vocabulary()}
	// An endpoint whose link is still here has no container in it.
	container := scene.Namespace(t, lab.NewHost(t))
	m.settle(func(endpoint string) { h.Run("ip", "link", "set", "dbp"+endpoint, "netns", container) })
	return m
}

// picture is what the operator is told.
func (m *machine) picture(t *testing.T) string {
	t.Helper()
	client, all := admin.NewClient(m.daemon.Admin()), []string{}
	say := func(v any, err error) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%+v", v))
	}
	ctx := t.Context()
	networks, err := client.Networks(ctx)
	say(networks, err)
	endpoints, err := client.Endpoints(ctx)
	say(endpoints, err)
	plan, err := client.Plan(ctx)
	say(plan, err)
	return strings.Join(all, "\n")
}

// files is what must not be forgotten, to the byte.
func (m *machine) files(t *testing.T) string {
	t.Helper()
	var all []string
	for _, file := range []string{filepath.Join(m.daemon.StateDir, "state.db"), filepath.Join(m.daemon.RunDir, "boot.db")} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s %x", filepath.Base(file), sha256.Sum256(text)))
	}
	return strings.Join(all, "\n")
}

// TestKernelHostileRequestsChangeNothingOfTheHost is the same with a real daemon: nothing
// of the host, of the files and of what the operator sees is another than before.
func TestKernelHostileRequestsChangeNothingOfTheHost(t *testing.T) {
	m := newMachine(t)
	before, files, host := m.picture(t), m.files(t), m.host.Snapshot()
	unchanged := func(what string) {
		t.Helper()
		if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(m.picture(t), "\n")); diff != "" {
			t.Errorf("%s: changed (-before +after):\n%s", what, diff)
		}
	}
	unwritten := func(what string) {
		t.Helper()
		if diff := cmp.Diff(files, m.files(t)); diff != "" {
			t.Errorf("%s: the files were written (-before +after):\n%s", what, diff)
		}
	}
	for _, p := range pages(t, "kernel.txt") {
		answers := m.all(p)
		if diff := cmp.Diff(p.render(wanted(p)), p.render(answers)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", p.file, diff)
		}
		unchanged(p.file)
		unwritten(p.file)
	}
	manyAtOnce(t, m.client, pages(t, "kernel.txt"))
	unchanged("eight at a time")
	unwritten("eight at a time")
	// What the kernel refuses was saved by then, and is undone.
	for _, p := range pages(t) {
		if filepath.Base(p.file) == "kernel.txt" {
			golden.Equal(t, p.file, p.render(m.all(p)))
			unchanged(p.file)
		}
	}
	if diff := host.Diff(m.host.Snapshot()); diff != "" {
		t.Errorf("the host has changed:\n%s", diff)
	}
	m.live()
	// Links follow a removal.
	lab.Until(t, "a container came and went without a trace", func() error {
		status, err := admin.NewClient(m.daemon.Admin()).Status(t.Context())
		if err != nil || len(status.Drift) > 0 {
			return fmt.Errorf("drift %v, %w", status.Drift, err)
		}
		if diff := host.Diff(m.host.Snapshot()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	m.checkModes(t)
	m.checkOperator(t)
	unchanged("what the operator is sent")
	m.daemon.Stop()
	for line := range strings.Lines(m.daemon.Log()) {
		checkText(t, "a line of the log", strings.TrimSuffix(line, "\n"), 8<<10)
	}
}

// all sends all requests of a page and returns the answers.
func (m *machine) all(p *page) []string {
	var answers []string
	for _, r := range p.all {
		answers = append(answers, m.ask(r))
	}
	return answers
}

func wanted(p *page) []string {
	var all []string
	for _, r := range p.all {
		all = append(all, r.want)
	}
	return all
}

// checkModes finds who may do what with the files and sockets of a daemon that was started
// with a umask of nothing.
func (m *machine) checkModes(t *testing.T) {
	t.Helper()
	for path, want := range map[string]os.FileMode{
		m.daemon.Socket(): os.ModeSocket | 0o660,
		m.daemon.Admin():  os.ModeSocket | 0o600,
		m.daemon.StateDir: os.ModeDir | 0o700,
		m.daemon.RunDir:   os.ModeDir | 0o700,
		filepath.Join(m.daemon.StateDir, "state.db"):   0o600,
		filepath.Join(m.daemon.RunDir, "boot.db"):      0o600,
		filepath.Join(m.daemon.StateDir, "state.copy"): 0o600,
		filepath.Join(m.daemon.RunDir, "boot.copy"):    0o600,
	} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", filepath.Base(path), info.Mode(), err, want)
		}
	}
	var names []string
	for _, dir := range []string{filepath.Dir(m.daemon.Socket()), m.daemon.RunDir, m.daemon.StateDir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	if want := []string{"admin.sock", "plugin.sock", "boot.copy", "boot.db", "state.copy", "state.db"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

// checkOperator sends the operator's socket what no command sends.
func (m *machine) checkOperator(t *testing.T) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.daemon.Admin())
	}}
	defer transport.CloseIdleConnections()
	for _, r := range []struct {
		verb, path string
		status     int
	}{
		{"POST", "v1/remove", 409},
		{"POST", "v1/remove?force=0", 409},
		{"POST", "v1/remove?force=yes%0a", 400},
		{"POST", "v1/remove?force=&force=1", 409},
		{"GET", "v1/remove?force=1", 405},
		{"DELETE", "v1/networks", 405},
		{"POST", "v1/networks//remove", 307}, // to a path that there is not
		{"POST", "v1/networks/..%2f..%2fremove/remove", 400},
		{"POST", "v1/networks/networkweb01%00/remove", 400},
		{"POST", "v1/networks/" + strings.Repeat("a", 10000) + "/remove", 400},
		{"POST", "v1/networks/" + id("networknew01") + "/remove", 404},
		{"POST", "v1/networks/" + id("networkweb01") + "/endpoints/..%2f..%2fpools/remove", 400},
		{"POST", "v1/networks/" + id("networkweb01") + "/endpoints/endpointone1%0a/remove", 400},
		{"POST", "v1/networks/" + id("networklan01") + "/endpoints/" + id("endpointone1") + "/remove", 404},
		{"POST", "v1/pools/remove", 400},
		{"POST", "v1/pools/remove?prefix=10.1.0.0", 400},
		{"POST", "v1/pools/remove?prefix=%1b%5b2J", 400},
		{"POST", "v1/pools/remove?prefix=10.1.0.0/24", 404},
		{"GET", "v1/plan/../../etc/passwd", 307}, // the same
		{"POST", "NetworkDriver.DeleteNetwork", 404},
		{"GET", "v1/networks?" + strings.Repeat("a", 100000), 431},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.verb, "http://drawbridge/"+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s %.80s: %v", r.verb, r.path, err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != r.status {
			t.Errorf("%s %.80s: %s %s, %v, want %d", r.verb, r.path, resp.Status, text, err, r.status)
		}
		checkText(t, r.path[:min(80, len(r.path))], strings.ReplaceAll(string(text), "\n", " "), 1<<10)
	}
}
