package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/admin"
)

// managed is what a managed plugin's config.json says, as far as we have to agree
// with it.
type managed struct {
	Entrypoint      []string
	Interface       struct{ Socket string }
	PropagatedMount string
	Linux           struct{ Capabilities []string }
	Mounts          []struct{ Source, Destination string }
	Env             []struct{ Name, Value string }
}

func TestPluginConfigFitsServe(t *testing.T) {
	text, err := os.ReadFile("../../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var config managed
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	root := (&env{}).root()
	serve, flags, err := root.Find(config.Entrypoint[1:])
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.ParseFlags(flags); err != nil || serve.Name() != "serve" {
		t.Fatalf("%s: %v", serve.Name(), err)
	}
	for flag, want := range map[string]string{
		// The engine shows the host nothing else of the plugin's, and keeps nothing else.
		"plugin-socket": filepath.Join("/run/docker/plugins", config.Interface.Socket),
		"admin-socket":  filepath.Join("/run/docker/plugins", filepath.Base(admin.PluginSockets)),
		"state-dir":     config.PropagatedMount,
		"run-dir":       config.PropagatedMount,
	} {
		if got := serve.Flag(flag).Value.String(); got != want {
			t.Errorf("--%s is %s, want %s", flag, got, want)
		}
	}
	// An engine does not start if the source of a mount is missing.
	if m := config.Mounts; len(m) != 1 || m[0].Source != "/proc/sys/net" || m[0].Destination != serve.Flag("sysctls").Value.String()+"/net" {
		t.Errorf("mounts: %v", m)
	}
	if got := config.Linux.Capabilities; !slices.Equal(got, []string{"CAP_NET_ADMIN"}) {
		t.Errorf("capabilities: %v", got)
	}
	const sunPath = 108 // struct sockaddr_un, with a zero at its end
	if got := len(admin.PluginSockets) - len("*") + 64; got >= sunPath {
		t.Errorf("the operator's socket has a path of %d bytes", got)
	}
	env := map[string]string{}
	for _, e := range config.Env {
		env[e.Name] = e.Value
	}
	if want := map[string]string{"LOG_LEVEL": serve.Flag("log-level").DefValue, "FIREWALL": serve.Flag("firewall").DefValue}; !maps.Equal(env, want) {
		t.Errorf("env: want %v, got %v", want, env)
	}
}

// TestDockerfileBuildsWithTheGoOfTheModule: an older one would refuse to.
func TestDockerfileBuildsWithTheGoOfTheModule(t *testing.T) {
	version := func(file, pattern string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s: nothing like %s", file, pattern)
		}
		return string(found[1])
	}
	want := version("../../go.mod", `(?m)^go (\d+\.\d+)`)
	if got := version("../../Dockerfile", `(?m)^FROM golang:(\d+\.\d+)-`); got != want {
		t.Errorf("the Dockerfile has Go %s, the module wants %s", got, want)
	}
}

func TestLogLevelOfTheEnvironmentMustMeanSomething(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), &env{stdout: &stderr, stderr: &stderr, logLevel: "loud"}, []string{"serve"})
	if code != exitTrouble || !bytes.Contains(stderr.Bytes(), []byte("LOG_LEVEL")) {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestWarningsGoToStderrAndTheRestToStdout(t *testing.T) {
	var stdout, stderr bytes.Buffer
	log := (&env{stdout: &stdout, stderr: &stderr}).log(logrus.InfoLevel)
	log.Debug("one")
	log.Info("two")
	log.Warn("three")
	log.Error("four")
	if got := bytes.Count(stdout.Bytes(), []byte("\n")); got != 1 || !bytes.Contains(stdout.Bytes(), []byte("two")) {
		t.Errorf("stdout: %s", stdout.String())
	}
	if got := bytes.Count(stderr.Bytes(), []byte("\n")); got != 2 || !bytes.Contains(stderr.Bytes(), []byte("three")) || !bytes.Contains(stderr.Bytes(), []byte("four")) {
		t.Errorf("stderr: %s", stderr.String())
	}
}

// TestCommandsFindAPluginsDaemon assumes what every test does: that this machine runs
// no daemon of its own.
func TestCommandsFindAPluginsDaemon(t *testing.T) {
	daemon := answering(t, aDaemon())
	dead := filepath.Join(filepath.Dir(daemon), "a-dead-one")
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), &env{stdout: &stdout, stderr: &stderr, pluginSockets: filepath.Join(filepath.Dir(daemon), "*")}, []string{"plan"})
	if code != 0 || !bytes.Contains(stdout.Bytes(), []byte("bridge dbr3f2a9c0d11ee")) {
		t.Errorf("exit code %d: %s%s", code, stdout.String(), stderr.String())
	}
}
