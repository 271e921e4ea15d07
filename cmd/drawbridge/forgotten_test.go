package main

import (
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const strayID = "cc01c2d3e4f500000000000000000000000000000000000000000000000000be"

// notesOf are the notices of drawbridge status about what Docker and the daemon do not
// both have.
func notesOf(t *testing.T, daemon, docker string) []string {
	t.Helper()
	got := drawbridge(t, "status", "--admin-socket", daemon, "--docker-socket", docker)
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	var all []string
	for line := range strings.Lines(got.stdout) {
		if note, ok := strings.CutPrefix(strings.TrimSpace(line), "note: "); ok && !strings.Contains(note, "forwarding is on") {
			all = append(all, note)
		}
	}
	return all
}

// forgetful are a daemon and an engine each of which has forgotten something, and the
// notices that say so.
func forgetful() (daemon, docker map[string]string, want []string) {
	daemon, docker = aDaemon(), anEngine()
	daemon["GET /v1/endpoints"] = `[
		{"id":"` + twoID + `","network":"` + webID + `","addresses":["172.30.0.3/24"],"idle":false},
		{"id":"` + strayID + `","network":"` + webID + `","addresses":["172.30.0.9/24"],"idle":false},
		{"id":"` + lostID + `","network":"` + webID + `","addresses":["172.30.0.8/24"],"idle":true}]`
	docker["GET /networks/"+webID] = `{"Name":"web","Containers":{
		"c2":{"Name":"alpha","EndpointID":"` + twoID + `"},
		"c1":{"Name":"beta","EndpointID":"` + oneID + `"},
		"ep-dd01":{"Name":"gamma","EndpointID":"dd01"}}}`
	docker["GET /networks"] = strings.Replace(docker["GET /networks"], `{"Id":"host"`, `
		{"Id":"old","Name":"old","Driver":"drawbridge-net/drawbridge:latest","Scope":"local"},
		{"Id":"far","Name":"far","Driver":"drawbridge","Scope":"swarm"},
		{"Id":"host"`, 1)
	return daemon, docker, []string{
		"Docker keeps an endpoint of gamma on network web, in which no container is: docker restart gamma if there is such a container, else docker network disconnect -f web gamma",
		"endpoint cc01c2d3e4f5 (172.30.0.9/24) of network web is unknown to Docker, and somebody is in it: drawbridge remove cc01c2d3e4f5",
		"nothing is remembered of container beta on network web: it has no published ports there, and others may be given its address; docker restart beta",
		"Docker has no network 7c01aa55cc33 (172.30.1.0/24): if no other engine has, drawbridge remove 7c01aa55cc33",
		"Docker has no network with subnet 10.6.0.0/24, which was given away: if no other engine has, drawbridge remove 10.6.0.0/24",
		"nothing is remembered of Docker's network old: containers on it go on as they are, and no others can start; take them off it, docker network rm old, and create it again",
	}
}

func TestStatusNamesWhatDockerOrWeHaveForgottenAndWhatFreesIt(t *testing.T) {
	daemon, docker, want := forgetful()
	if diff := cmp.Diff(want, notesOf(t, answering(t, daemon), answering(t, docker))); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
	docker["GET /networks/"+webID] = `{"error":"it is busy"}`
	for _, silent := range []string{filepath.Join(t.TempDir(), "none.sock"), answering(t, docker)} {
		if got := notesOf(t, answering(t, daemon), silent); got != nil {
			t.Errorf("an engine that does not answer may have all of it, and yet: %q", got)
		}
	}
}

// TestStatusKnowsOurNetworksByTheNameOfTheDriver whose socket is called so, or whom a managed
// plugin's name has in it.
func TestStatusKnowsOurNetworksByTheNameOfTheDriver(t *testing.T) {
	docker := map[string]string{"GET /networks": `[
		{"Id":"a","Name":"by a service","Driver":"drawbridge","Scope":"local"},
		{"Id":"b","Name":"by a plugin","Driver":"drawbridge-net/drawbridge:latest","Scope":"local"},
		{"Id":"c","Name":"by a private plugin","Driver":"127.0.0.1:5000/drawbridge:v1","Scope":"local"},
		{"Id":"d","Name":"by another service","Driver":"other","Scope":"local"},
		{"Id":"e","Name":"of the swarm","Driver":"drawbridge","Scope":"swarm"},
		{"Id":"f","Name":"Docker's own","Driver":"bridge","Scope":"local"}]`}
	for driver, want := range map[string][]string{
		"drawbridge": {"by a service", "by a plugin", "by a private plugin"},
		"other":      {"by another service"},
	} {
		daemon := map[string]string{
			"GET /v1/networks": "[]", "GET /v1/endpoints": "[]",
			"GET /v1/status": `{"version":"v1","driver":"` + driver + `","loose_pools":[],"notices":[],"drift":[]}`,
		}
		var named []string
		for _, note := range notesOf(t, answering(t, daemon), answering(t, docker)) {
			name, _, _ := strings.Cut(strings.TrimPrefix(note, "nothing is remembered of Docker's network "), ":")
			named = append(named, name)
		}
		if diff := cmp.Diff(want, named); diff != "" {
			t.Errorf("driver %s (-want +got):\n%s", driver, diff)
		}
	}
}

// TestStatusIsNoHalfOfTheTruth where the daemon does not tell what it has.
func TestStatusIsNoHalfOfTheTruth(t *testing.T) {
	daemon, docker, _ := forgetful()
	for _, silent := range []string{"GET /v1/networks", "GET /v1/endpoints"} {
		broken := maps.Clone(daemon)
		broken[silent] = `{"error":"it is busy"}`
		got := drawbridge(t, "status", "--admin-socket", answering(t, broken), "--docker-socket", answering(t, docker))
		if got.code != exitTrouble || !strings.Contains(got.stderr, "it is busy") {
			t.Errorf("%s: %+v", silent, got)
		}
	}
}

// TestStatusSaysNothingOfWhatIsJustBeingMade is about an engine that has a thing a moment
// after the daemon has it.
func TestStatusSaysNothingOfWhatIsJustBeingMade(t *testing.T) {
	daemon, before, _ := forgetful()
	after := maps.Clone(anEngine())
	after["GET /networks"] = strings.Replace(after["GET /networks"], `{"Id":"host"`, `
		{"Id":"`+dbID+`","Name":"db","IPAM":{"Config":[{"Subnet":"172.30.1.0/24"},{"Subnet":"10.6.0.0/24"}]}},{"Id":"host"`, 1)
	after["GET /networks/"+webID] = `{"Name":"web","Containers":{
		"c2":{"Name":"alpha","EndpointID":"` + twoID + `"},"c3":{"Name":"delta","EndpointID":"` + strayID + `"}}}`
	var lists atomic.Int32
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/networks" {
			lists.Add(1)
		}
		answers := before
		if lists.Load() > 1 {
			answers = after
		}
		answer, known := answers[r.Method+" "+r.URL.Path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(answer))
	})}}
	server.Start()
	t.Cleanup(server.Close)
	if got := slices.Compact(notesOf(t, answering(t, daemon), path)); got != nil {
		t.Errorf("notices: %q", got)
	}
	if lists.Load() < 2 {
		t.Error("it was asked once")
	}
}
