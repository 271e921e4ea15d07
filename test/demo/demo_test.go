// Package demo shows Drawbridge at work on a private engine, with the commands
// that a person would type, and fails if a promise does not hold. make demo runs it.
package demo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// stage is where the demonstration takes place.
type stage struct {
	t *testing.T
	l *lab.Lab
	e *lab.Engine
}

func say(text string) { fmt.Printf("\n# %s\n", text) }

func (s *stage) docker(args ...string) {
	s.t.Helper()
	fmt.Printf("$ docker %s\n", strings.Join(args, " "))
	fmt.Print(s.e.Docker(args...))
}

func (s *stage) drawbridge(args ...string) {
	s.t.Helper()
	fmt.Printf("$ drawbridge %s\n", strings.Join(args, " "))
	out, err := s.e.Drawbridge(args...)
	if err != nil {
		s.t.Fatalf("%s%v", out, err)
	}
	fmt.Print(out)
}

// ask has a container ask a server who it is and whom it sees.
func (s *stage) ask(container, address, server string) {
	s.t.Helper()
	fmt.Printf("$ docker exec %s peer ask tcp %s\n", container, address)
	fmt.Println(s.e.MustReach(container, "tcp", address, server))
}

// published has a machine ask c1 by its published port.
func (s *stage) published(h *lab.Host, name, address string) {
	s.t.Helper()
	fmt.Printf("%s$ peer ask tcp %s\n", name, address)
	fmt.Printf("c1 %s\n", h.MustReach("tcp", address, "c1"))
}

func (s *stage) refused(container, address string, want hello.Verdict) {
	s.t.Helper()
	fmt.Printf("$ docker exec %s peer ask tcp %s\n", container, address)
	s.e.MustNotReach(container, "tcp", address, want)
	fmt.Println(want)
}

func TestEngineDemo(t *testing.T) {
	start := time.Now()
	say("A private Docker engine in namespaces of its own; this machine is not touched.")
	l := lab.New(t)
	s := &stage{t, l, l.Engine(lab.Oldest)}
	before := l.Host.Snapshot()
	s.e.StartDaemon()
	l.Outside.Serve("tcp", ":80")
	fmt.Printf("ready after %.1f s; the host is 192.0.2.1, another machine is 192.0.2.2\n", time.Since(start).Seconds())
	s.show()
	s.cleanUp(before)
	fmt.Printf("\nEvery promise held. It took %.1f s.\n", time.Since(start).Seconds())
}

func (s *stage) show() {
	say("Two networks, IPv6 on one of them, and three containers. peer answers with its name and whom it sees.")
	s.docker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "--ipv6", "--subnet", "172.30.1.0/24", "--subnet", "fd00:30:1::/64", "web")
	s.docker("network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge", "back")
	s.docker("run", "-d", "--name", "c1", "--hostname", "c1", "--network", "web", "-p", "8080:80", lab.Image)
	s.docker("run", "-d", "--name", "c2", "--hostname", "c2", "--network", "web", lab.Image)
	s.docker("run", "-d", "--name", "d1", "--hostname", "d1", "--network", "back", lab.Image)
	for _, name := range []string{"c1", "c2", "d1"} {
		s.e.Serves(name)
	}

	say("No engine shows the ports of a network driver plugin. drawbridge ps does.")
	s.drawbridge("ps", "--docker-socket", "/run/docker.sock")

	say("Containers find each other by name, and reach the world, which sees the host.")
	s.ask("c2", "c1:80", "c1")
	s.ask("c1", "192.0.2.2:80", "outside")

	say("The published port: from another machine, whose address c1 sees, and from this host in every way.")
	s.published(s.l.Outside, "outside", "192.0.2.1:8080")
	s.published(s.l.Outside, "outside", "[2001:db8:1::1]:8080")
	s.published(s.l.Host, "host", "192.0.2.1:8080")
	s.published(s.l.Host, "host", "127.0.0.1:8080")

	say("From a container beside it, from itself, from another network.")
	s.ask("c2", "192.0.2.1:8080", "c1")
	s.ask("c1", "192.0.2.1:8080", "c1")
	s.ask("d1", "192.0.2.1:8080", "c1")

	say("Networks are isolated: what is not published is not reached.")
	s.refused("d1", "172.30.1.2:80", hello.Drop)

	say("A running container joins another network, and leaves it.")
	s.docker("network", "connect", "back", "c1")
	s.ask("d1", "c1:80", "c1")
	s.docker("network", "disconnect", "back", "c1")

	say("The daemon is killed under an open connection: nobody notices.")
	flow := s.l.Outside.Dial("tcp", "192.0.2.1:8080")
	s.talk(flow)
	fmt.Println("$ kill -9 $(pidof drawbridge)")
	s.e.KillDaemon()
	s.talk(flow)
	s.published(s.l.Outside, "outside", "192.0.2.1:8080")
	s.e.StartDaemon()
	s.talk(flow)
	s.drawbridge("status")
}

func (s *stage) talk(flow *hello.Conn) {
	s.t.Helper()
	answer, err := flow.Ask(hello.Patience)
	if err != nil {
		s.t.Fatalf("the open connection: %v", err)
	}
	fmt.Printf("outside, on the open connection: %s\n", answer)
}

func (s *stage) cleanUp(before lab.Snapshot) {
	say("All is removed, and the host is as it was.")
	s.docker("rm", "-f", "c1", "c2", "d1")
	s.docker("network", "rm", "web", "back")
	s.drawbridge("remove")
	if diff := before.Diff(s.l.Host.Snapshot()); diff != "" {
		s.t.Fatalf("the host is not as it was:\n%s", diff)
	}
}
