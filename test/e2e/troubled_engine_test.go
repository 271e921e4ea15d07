package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineTellsPeopleOfTroubleAndWhatRunsGoesOn is what people see of the three worst: a
// full disk, a state that is damaged while the daemon is away, and too few files.
func TestEngineTellsPeopleOfTroubleAndWhatRunsGoesOn(t *testing.T) {
	small := func(s *site) {
		for _, command := range [][]string{{"mkdir", "-p", "/run/drawbridge"}, {"mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", "/run/drawbridge"}} {
			if out, err := s.Try(command[0], command[1:]...); err != nil {
				s.t.Fatal(err, out)
			}
		}
	}
	eachEngineAfter(t, small, func(s *site) {
		s.network("web", "--subnet", "172.30.1.0/24")
		s.Run("c1", "--network", "web", "-p", "8080:80")
		stop := lab.Steadily(s.t, "c1 by its published port", func() error {
			_, err := s.Outside.Ask("tcp", "192.0.2.1:8080")
			return err
		})
		many := []string{"run", "--rm", "--network", "web"}
		for i := range 200 {
			many = append(many, "-p", fmt.Sprintf("%d:80", 20000+2*i))
		}
		many = append(many, lab.Image, "true")

		free := lab.Fill(s.t, s.Outer("/run/drawbridge"))
		s.complains(many, "write /run/drawbridge/boot.db: no space left on device: free some on its file system")
		free()

		s.KillDaemon()
		for _, file := range []string{filepath.Join(s.Dir(), "drawbridge", "state.db"), s.Outer("/run/drawbridge/boot.db")} {
			if err := os.WriteFile(file, []byte("no state at all"), 0o600); err != nil {
				s.t.Fatal(err)
			}
		}
		s.StartDaemon()
		if out, err := s.Drawbridge("status"); err != nil || !contains(out, "state.db is damaged", "boot.db is damaged", "what it held is back from its copy") {
			s.t.Errorf("status: %v\n%s", err, out)
		}

		files := unix.Rlimit{}
		if err := unix.Prlimit(s.DaemonPid(), unix.RLIMIT_NOFILE, nil, &files); err != nil {
			s.t.Fatal(err)
		}
		limit := func(l unix.Rlimit) {
			if err := unix.Prlimit(s.DaemonPid(), unix.RLIMIT_NOFILE, &l, nil); err != nil {
				s.t.Fatal(err)
			}
		}
		limit(unix.Rlimit{Cur: 400, Max: files.Max})
		s.complains(many, "too many open files: ", "raise its limit (LimitNOFILE of the service")
		limit(files)

		s.Run("c2", "--network", "web", "-p", "8081:80")
		s.Outside.MustReach("tcp", "192.0.2.1:8081", "c2")
		s.MustReach("c2", "tcp", "c1:80", "c1")
		stop()
	})
}

// complains fails the test unless docker ends with an error that says all of this.
func (s *site) complains(command []string, parts ...string) {
	s.t.Helper()
	if out, err := s.TryDocker(command...); err == nil || !contains(err.Error(), parts...) {
		s.t.Errorf("docker %s: want an error that says %q, got %v %s", command[0], parts, err, out)
	}
}

func contains(text string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
