package lab_test

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestEngineLabContainersOfDockersOwnBridge(t *testing.T) {
	lab.EachEngine(t, func(t *testing.T, engine string) {
		l := lab.New(t)
		e := l.Engine(engine)
		l.Outside.Serve("tcp", ":80")
		useDockersBridge(t, l, e) // the newest engine's first port leaves an empty table behind
		before := l.Host.Snapshot()
		useDockersBridge(t, l, e)
		if diff := before.Diff(l.Host.Snapshot()); diff != "" {
			t.Errorf("the host is not as before:\n%s", diff)
		}
	})
}

func useDockersBridge(t *testing.T, l *lab.Lab, e *lab.Engine) {
	t.Helper()
	e.Docker("network", "create", "web")
	e.Run("c1", "--network", "web", "-p", "8080:80")
	e.Run("c2", "--network", "web")
	e.MustReach("c2", "tcp", "c1:80", "c1")
	e.MustReach("c1", "udp", "c2:80", "c2")
	if got := e.MustReach("c1", "tcp", lab.Internet+":80", "outside").Client.Addr(); got != l.Host.Addr {
		t.Errorf("outside saw %v, want the host's %v", got, l.Host.Addr)
	}
	if got := l.Outside.MustReach("tcp", "192.0.2.1:8080", "c1").Addr(); got != l.Outside.Addr {
		t.Errorf("c1 saw %v, want %v", got, l.Outside.Addr)
	}
	e.MustNotReach("c1", "tcp", "c2:81", hello.Refuse)
	l.Outside.MustNotReach("tcp", "192.0.2.1:8081", hello.Refuse)

	e.Docker("rm", "-f", "c1", "c2")
	e.Docker("network", "rm", "web")
}

func TestEngineLabEngineMayBeStoppedAndKilled(t *testing.T) {
	lab.EachEngine(t, func(t *testing.T, engine string) {
		l := lab.New(t)
		e := l.Engine(engine, "--live-restore")
		e.Run("c1")
		e.KillDocker()
		e.StartDocker()
		e.MustReach("c1", "tcp", "127.0.0.1:80", "c1")
		e.StopDocker()
		e.StartDocker()
		e.MustReach("c1", "tcp", "127.0.0.1:80", "c1")
	})
}

func TestEngineLabClientsRunComposeUpAndDown(t *testing.T) {
	lab.EachEngine(t, func(t *testing.T, engine string) {
		e := lab.New(t).Engine(engine)
		for _, clients := range e.Clients() {
			e.UseClients(clients)
			if out := e.Docker("version", "--format", "{{.Client.Version}}"); strings.HasPrefix(out, "20.10") != (clients == lab.DebianClients) {
				t.Errorf("%s are of version %s", clients, out)
			}
			const project = `
services:
  one: {image: lab, hostname: one, container_name: one}
  two: {image: lab, hostname: two}
`
			if _, err := e.Compose("p", project, "up", "-d"); err != nil {
				t.Fatal(err)
			}
			e.MustReach("one", "tcp", "two:80", "two")
			if _, err := e.Compose("p", project, "down"); err != nil {
				t.Fatal(err)
			}
			if out := e.Docker("ps", "-aq"); strings.TrimSpace(out) != "" {
				t.Errorf("containers are left: %s", out)
			}
		}
	})
}
