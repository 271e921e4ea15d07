package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/golden"
)

const (
	webID  = "3f2a9c0d11ee00000000000000000000000000000000000000000000000000aa"
	dbID   = "7c01aa55cc3300000000000000000000000000000000000000000000000000ab"
	oneID  = "9b01c2d3e4f500000000000000000000000000000000000000000000000000bb"
	twoID  = "aa01c2d3e4f500000000000000000000000000000000000000000000000000bc"
	lostID = "bb01c2d3e4f500000000000000000000000000000000000000000000000000bd"
)

// aDaemon answers as one does that has two networks and three endpoints.
func aDaemon() map[string]string {
	return map[string]string{
		"GET /v1/networks": `[
			{"id":"` + webID + `","bridge":"dbr3f2a9c0d11ee","subnets":["172.30.0.0/24","fd00:30::/64"],"gateways":["172.30.0.1","fd00:30::1"],"internal":false,"mtu":1500,"endpoints":2},
			{"id":"` + dbID + `","bridge":"dbr7c01aa55cc33","subnets":["172.30.1.0/24"],"gateways":["172.30.1.1"],"internal":true,"mtu":1400,"endpoints":1}]`,
		"GET /v1/endpoints": `[
			{"id":"` + twoID + `","network":"` + webID + `","addresses":["172.30.0.3/24","fd00:30::3/64"],"mac":"02:00:00:00:00:02","ports":["0.0.0.0:8080->80/tcp","[::]:8080->80/tcp","127.0.0.1:9000-9009->9000-9009/udp"],"sandbox":"/ns/2","link":"dbvaa01c2d3e4f5","idle":false},
			{"id":"` + oneID + `","network":"` + webID + `","addresses":["172.30.0.2/24"],"mac":"02:00:00:00:00:01","ports":[],"sandbox":"/ns/1","link":"dbv9b01c2d3e4f5","idle":false},
			{"id":"` + lostID + `","network":"` + dbID + `","addresses":["172.30.1.2/24"],"mac":"02:00:00:00:00:03","ports":[],"sandbox":"","link":"dbvbb01c2d3e4f5","idle":true}]`,
		"GET /v1/plan":    `"bridge dbr3f2a9c0d11ee mtu 1500\n"`,
		"GET /v1/status":  `{"version":"v1","driver":"drawbridge","networks":2,"endpoints":3,"pools":3,"firewall":{"backend":"nftables","reason":"as told"},"loose_pools":["10.5.0.0/24","10.6.0.0/24"],"warnings":["table inet filter, chain forward: policy drop"],"notices":["forwarding is on for eth0"],"drift":[]}`,
		"POST /v1/remove": `"removed"`,

		"POST /v1/networks/" + dbID + "/remove":                          `"removed"`,
		"POST /v1/networks/" + dbID + "/endpoints/" + lostID + "/remove": `"removed"`,
		"POST /v1/pools/remove":                                          `"removed"`,
	}
}

// anEngine knows network web and its containers, and not the other network. One of
// the loose pools is of another driver's network.
func anEngine() map[string]string {
	return map[string]string{
		"GET /networks": `[
			{"Id":"` + webID + `","Name":"web","IPAM":{"Driver":"drawbridge","Config":[{"Subnet":"172.30.0.0/24"}]}},
			{"Id":"lan","Name":"lan","IPAM":{"Driver":"drawbridge","Config":[{"Subnet":"10.5.0.0/24","Gateway":"10.5.0.1"}]}},
			{"Id":"host","Name":"host","IPAM":{"Driver":"default","Config":null}}]`,
		"GET /networks/" + webID: `{"Name":"web","Containers":{
			"c2":{"Name":"alpha","EndpointID":"` + twoID + `"},"c1":{"Name":"beta","EndpointID":"` + oneID + `"}}}`,
	}
}

// answering serves answers, by method and path, on a unix socket.
func answering(t *testing.T, answers map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := answers[r.Method+" "+r.URL.Path]
		if strings.HasPrefix(answer, `{"error"`) {
			w.WriteHeader(http.StatusConflict)
		} else if !known {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(answer))
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return path
}

type result struct {
	code           int
	stdout, stderr string
}

func drawbridge(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), &env{stdout: &stdout, stderr: &stderr}, args)
	return result{code, stdout.String(), stderr.String()}
}

func TestOutputsAreTheSameBytesTwice(t *testing.T) {
	daemon, engine := answering(t, aDaemon()), answering(t, anEngine())
	for name, args := range map[string][]string{
		"ps":            {"ps", "--docker-socket", engine},
		"ps.json":       {"ps", "--json", "--docker-socket", engine},
		"ps-alone":      {"ps", "--docker-socket", "/nonexistent"},
		"networks":      {"networks", "--docker-socket", engine},
		"networks.json": {"networks", "--json", "--docker-socket", engine},
		"plan":          {"plan"},
		"status":        {"status", "--docker-socket", engine},
		"status.json":   {"status", "--json", "--docker-socket", engine},
		"status-alone":  {"status", "--docker-socket", "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			first := drawbridge(t, append(args, "--admin-socket", daemon)...)
			if first.code != 0 || first.stderr != "" {
				t.Fatalf("exit code %d: %s", first.code, first.stderr)
			}
			if strings.HasSuffix(name, ".json") && !json.Valid([]byte(first.stdout)) {
				t.Errorf("not JSON: %s", first.stdout)
			}
			golden.Equal(t, filepath.Join("testdata", name+".golden"), first.stdout)
			if diff := cmp.Diff(first, drawbridge(t, append(args, "--admin-socket", daemon)...), cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("the second time it differs (-first +second):\n%s", diff)
			}
		})
	}
}

func TestAnEmptyDaemonHasListsAndNotNull(t *testing.T) {
	daemon := answering(t, map[string]string{"GET /v1/networks": "[]", "GET /v1/endpoints": "[]"})
	for _, command := range []string{"ps", "networks"} {
		if got := drawbridge(t, command, "--json", "--docker-socket", "/nonexistent", "--admin-socket", daemon); got.stdout != "[]\n" || got.code != 0 {
			t.Errorf("%s --json: %+v", command, got)
		}
	}
}

func TestExitCodesTellTroubleFromMisuse(t *testing.T) {
	drifting := aDaemon()
	drifting["GET /v1/status"] = `{"version":"v1","networks":2,"endpoints":3,"pools":3,"loose_pools":["10.5.0.0/24","10.6.0.0/24"],"notices":[],"drift":[{"object":"link dbr3f2a9c0d11ee","field":"mtu","want":"1500","got":"1400"}]}`
	drifting["POST /v1/remove"] = `{"error":"2 networks of Docker's: in use: remove them with docker network rm, or use --force"}`
	troubled, well, docker := answering(t, drifting), answering(t, aDaemon()), answering(t, anEngine())
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, row := range []struct {
		args []string
		code int
		says string // on stderr, or on stdout if stderr is empty
	}{
		{[]string{"version"}, 0, "drawbridge "},
		{[]string{"help"}, 0, "Usage:"},
		{[]string{"remove", "--admin-socket", well}, 0, "nothing of Drawbridge's is left"},
		{[]string{"remove", "7c01", "--admin-socket", well, "--docker-socket", docker}, 0, "removed network 7c01aa55cc33"},
		{[]string{"remove", "7c01", "--admin-socket", well, "--docker-socket", none, "--force"}, 0, "removed network 7c01aa55cc33"},
		{[]string{"remove", "7c01", "--admin-socket", well, "--docker-socket", none}, 1, "no engine answers on " + none},
		{[]string{"remove", "3f2a", "--admin-socket", well, "--docker-socket", docker}, 1, "docker network rm web"},
		{[]string{"remove", "db", "--admin-socket", well, "--docker-socket", docker}, 1, "0 networks and 0 endpoints"},
		{[]string{"remove", "bb01", "--admin-socket", well, "--docker-socket", docker}, 0, "removed endpoint bb01c2d3e4f5"},
		{[]string{"remove", "bb01", "--admin-socket", well, "--docker-socket", none}, 1, "no engine answers on " + none},
		{[]string{"remove", "bb01", "--admin-socket", well, "--docker-socket", none, "--force"}, 0, "removed endpoint bb01c2d3e4f5"},
		{[]string{"remove", "aa01", "--admin-socket", well, "--docker-socket", docker}, 1, "docker network disconnect web alpha"},
		{[]string{"remove", "", "--force", "--admin-socket", well, "--docker-socket", docker}, 2, `"" is neither network`},
		{[]string{"remove", "../../" + dbID, "--admin-socket", well, "--docker-socket", docker}, 1, `subnet "../../7c01aa55`},
		{[]string{"remove", dbID + "0", "--admin-socket", well, "--docker-socket", docker}, 1, `0 networks`},
		{[]string{"remove", "\x1b[2J\x00", "--admin-socket", well, "--docker-socket", docker}, 1, `"\x1b[2J\x00": 0 networks`},
		{[]string{"remove", strings.Repeat("7", 1<<20), "--admin-socket", well, "--docker-socket", docker}, 1, `777": 0 networks`},
		{[]string{"remove", "10.6.0.0/33", "--admin-socket", well, "--docker-socket", docker}, 1, `subnet "10.6.0.0/33": want e.g.`},
		{[]string{"remove", "10.6.0.0/24; reboot", "--admin-socket", well, "--docker-socket", docker}, 1, `subnet "10.6.0.0/24; reboot": want e.g.`},
		{[]string{"remove", "10.6.0.0/24", "--admin-socket", well, "--docker-socket", docker}, 0, "gave subnet 10.6.0.0/24 back"},
		{[]string{"remove", "10.5.0.0/24", "--admin-socket", well, "--docker-socket", docker}, 1, "docker network rm lan"},
		{[]string{"remove", "10.6.0.0/24", "--admin-socket", well, "--docker-socket", none}, 1, "no engine answers on " + none},
		{[]string{"remove", "10.6.0.0/24", "--admin-socket", well, "--docker-socket", none, "--force"}, 0, "gave subnet 10.6.0.0/24 back"},
		{[]string{"remove", "a", "b"}, 2, "accepts at most 1 arg"},
		{[]string{"status", "--admin-socket", troubled}, 1, "drift: link dbr3f2a9c0d11ee"},
		{[]string{"status", "--json", "--admin-socket", troubled}, 1, `"object": "link dbr3f2a9c0d11ee"`},
		{[]string{"remove", "--admin-socket", troubled}, 1, "--force"},
		{[]string{"status", "--admin-socket", none}, 1, "no daemon is running on " + none},
		{[]string{"ps", "--json", "--admin-socket", none}, 1, "no daemon is running on " + none},
		{[]string{"networks", "--admin-socket", none}, 1, "no daemon is running on " + none},
		{[]string{"plan", "--admin-socket", none}, 1, "no daemon is running on " + none},
		{[]string{"bogus"}, 2, `unknown command "bogus"`},
		{[]string{"version", "more"}, 2, `"more"`},
		{[]string{"ps", "--yaml"}, 2, "--yaml"},
		{[]string{"serve", "--log-level", "loud"}, 2, "--log-level"},
		{[]string{"serve", "--firewall", "ipchains"}, 2, "want auto, nftables, iptables or none"},
		{[]string{"serve", "--pool", "10.64.0.0/12"}, 2, "e.g. 10.64.0.0/12=24"},
		{[]string{"serve", "--pool", "10.64.0.0=24"}, 2, "want a prefix and the length"},
		{[]string{"serve", "--pool", "10.64.0.0/12=8"}, 2, "want 12 to 30"},
		{[]string{"serve", "--pool", "10.64.0.1/12=24"}, 2, "want 10.64.0.0/12"},
		{[]string{"serve", "--pool", "fe80::/64=64"}, 2, "link-local"},
		{[]string{"serve", "--pool", "10.64.0.0/12=24", "--pool", "10.65.0.0/16=26"}, 2, "10.65.0.0/16 overlaps 10.64.0.0/12"},
	} {
		got := drawbridge(t, row.args...)
		text := got.stderr
		if text == "" {
			text = got.stdout
		}
		if got.code != row.code || !strings.Contains(text, row.says) {
			t.Errorf("drawbridge %s: exit code %d, want %d; want %q in %q", strings.Join(row.args, " "), got.code, row.code, row.says, text)
		}
		if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("drawbridge %.80q says %d bytes: %.200q", row.args, len(text), text)
		}
		if got.code == 1 && row.args[0] != "status" && got.stdout != "" {
			t.Errorf("drawbridge %s: an error and yet %q", strings.Join(row.args, " "), got.stdout)
		}
	}
}

// TestPathsThatSayTooLittleAreRefusedByName before anything is done with them.
func TestPathsThatSayTooLittleAreRefusedByName(t *testing.T) {
	seen := 0
	for _, command := range []string{"serve", "remove", "status"} {
		for _, flag := range []string{"admin-socket", "docker-socket", "plugin-socket", "state-dir", "run-dir", "sysctls"} {
			for _, odd := range []string{"", ".", "lib", "../lib", "@lib", "unix:///run/docker.sock", "/run/\x00", "/run/\nx", "/run/\x1b[2J", "/run/\xff"} {
				c, _, err := (&env{}).root().Find([]string{command}) // which is not run
				if err != nil || c.Flag(flag) == nil {
					continue
				}
				want := fmt.Sprintf("invalid argument %q for \"--%s\" flag: want an absolute path", odd, flag)
				if err := c.ParseFlags([]string{"--" + flag, odd}); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %s", command, err, want)
				}
				seen++
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d were tried", seen)
	}
}

// TestServeTouchesNothingWhereAnotherDaemonAnswers: with another state it would take
// off the host what the living one planned.
func TestServeTouchesNothingWhereAnotherDaemonAnswers(t *testing.T) {
	for _, flag := range []string{"--plugin-socket", "--admin-socket"} {
		dir, alive := t.TempDir(), answering(t, aDaemon())
		args := []string{
			"serve", "--state-dir", filepath.Join(dir, "lib"), "--run-dir", filepath.Join(dir, "run"),
			"--plugin-socket", filepath.Join(dir, "p.sock"), "--admin-socket", filepath.Join(dir, "a.sock"), flag, alive,
		}
		if got := drawbridge(t, args...); got.code != 1 || !strings.Contains(got.stderr, alive) {
			t.Errorf("%s: %+v", flag, got)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: it made %v, %v", flag, left, err)
		}
		if _, err := os.Stat(alive); err != nil {
			t.Errorf("%s: the living daemon's socket: %v", flag, err)
		}
	}
}
