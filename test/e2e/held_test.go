package e2e

import (
	"fmt"
	"net"
	"regexp"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEnginePortsThatAreTakenAreRefusedByName has every kind of holder, and then one that
// comes while the daemon is away.
func TestEnginePortsThatAreTakenAreRefusedByName(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.Docker("network", "create", "docks")
		s.Run("x1", "--network", "docks", "-p", "7070:81")
		s.listener("h1", "9090")
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		s.showsPorts("c1", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp (proxy)")
		for port, want := range map[string]string{
			"9090": `port 9090/tcp on every address: address already in use by peer \(pid \d+\)`,
			"7070": `port 7070/tcp on every address: address already in use by Docker's proxy for 172\.\d+\.0\.2:81 \(docker-proxy, pid \d+\)`,
			"8080": `port \*:8080->80/tcp: in use: \*:8080->80/tcp is published by endpoint [0-9a-f]{12} of network [0-9a-f]{12}`,
		} {
			if err := s.try("run", "--rm", "--network", "web", "-p", port+":80", lab.Image); err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
				s.t.Errorf("%s: want %s, got %v", port, want, err)
			}
		}

		s.StopDaemon()
		s.listener("h2", "8080")
		s.StartDaemon()
		s.Outside.MustReach("tcp", "192.0.2.1:8080", "c1")
		want := regexp.MustCompile(`drift: port 8080/tcp on every address held: want 1, got taken by peer \(pid \d+\)\n`)
		if out, err := s.Drawbridge("status"); err == nil || !want.MatchString(out) {
			s.t.Errorf("status: want %s, got %v\n%s", want, err, out)
		}
		s.Docker("rm", "-f", "h1", "h2")
		s.settled()
		s.Host.Do(func() {
			if l, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
				s.t.Error("the port is not held again")
				l.Close()
			}
		})
	})
}

// listener runs a process that listens on a port of the host.
func (s *site) listener(name, port string) {
	s.t.Helper()
	s.Docker("run", "-d", "--name", name, "--network", "host", lab.Image, "peer", "serve", "tcp:"+port)
	lab.Until(s.t, fmt.Sprintf("%s listens", name), func() error {
		_, err := s.Host.Ask("tcp", "127.0.0.1:"+port)
		return err
	})
}
