package lab

import (
	"os"
	"path/filepath"
)

// The docker commands and composes that people use with an engine.
const (
	DebianClients = "Debian's docker 20.10 and docker-compose 1.29"
	NewestClients = "the newest docker and its compose plugin"
)

// Clients lists those that scenarios use with this engine: the newest ones with the
// newest engine only. It speaks with Debian's until told otherwise.
func (e *Engine) Clients() []string {
	if e.version == Newest {
		return []string{DebianClients, NewestClients}
	}
	return []string{DebianClients}
}

// UseClients chooses who Docker and Compose are from now on.
func (e *Engine) UseClients(which string) {
	e.t.Helper()
	e.clients = ""
	if which == DebianClients {
		return
	}
	cache, err := Cache()
	if err != nil {
		e.t.Fatal(err)
	}
	e.clients = filepath.Join(cache, "clients")
	if _, err := os.Stat(e.clients); err != nil {
		e.t.Fatalf("%s are not in %s: run test/engines/fetch", which, cache)
	}
	// Where this file is, the command looks for its settings; plugins are elsewhere.
	e.File("config.json", `{"cliPluginsExtraDirs": ["`+e.clients+`/cli-plugins"]}`)
}

// Compose runs compose on a project whose file has the given content, e.g.
// Compose("p", content, "up", "-d").
func (e *Engine) Compose(project, content string, args ...string) (string, error) {
	e.t.Helper()
	words := append([]string{"-p", project, "-f", e.File(project+".yml", content)}, args...)
	if e.clients != "" {
		return e.Try("docker", append([]string{"compose", "--ansi", "never"}, words...)...)
	}
	return e.Try("/usr/bin/python3", append([]string{e.program("docker-compose"), "--no-ansi"}, words...)...)
}
