package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// unitMounts are what the unit makes of the file system, for whoever has the directory of
// the test and not those below /var/lib.
const unitMounts = `
mount --bind %s %[1]s
mount --bind /run /run
mount -t proc -o hidepid=invisible proc /proc
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
! touch /etc/drawbridge-was-here 2>/dev/null
`

// unitCapabilities are what the unit leaves to the daemon, e.g. net_admin.
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	unit, err := os.ReadFile("../../packaging/drawbridge.service")
	if err != nil {
		t.Fatal(err)
	}
	set := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)
	if set == nil {
		t.Fatal("the unit bounds no capabilities")
	}
	return strings.Fields(strings.ReplaceAll(strings.ToLower(string(set[1])), "cap_", ""))
}

// within are words that leave a command these capabilities, save one.
func within(capabilities []string, save string) []string {
	set := "-all"
	for _, c := range capabilities {
		if c != save {
			set += ",+" + c
		}
	}
	return []string{"setpriv", "--no-new-privs", "--bounding-set=" + set, "--inh-caps=-all", "--"}
}

// TestEngineIsServedWithWhatTheUnitAllows and each capability that the unit leaves is
// needed: without it something is missing that can be named.
func TestEngineIsServedWithWhatTheUnitAllows(t *testing.T) {
	capabilities := unitCapabilities(t)
	inTrouble(t, func(s *troubled) {
		s.Wrap, s.Before = within(capabilities, ""), fmt.Sprintf(unitMounts, s.Dir())
	}, func(s *troubled) {
		works := func(without string) map[string]bool {
			s.Kill()
			s.Wrap = within(capabilities, without)
			if err := s.Start(); err != nil {
				return nil
			}
			s.servesOneMore()
			return map[string]bool{
				"net_bind_service": s.publishes(80) == nil,
				"net_raw":          strings.Count(s.Host.Run("cat", "/proc/net/packet"), "\n") > 1,
				"sys_ptrace":       s.names(8098, "e2e.test"),
				"dac_read_search":  s.namesOther(8099, "sleep"),
			}
		}
		for what, works := range works("") {
			if !works {
				s.t.Errorf("with all capabilities of the unit %s is missing", what)
			}
		}
		for _, c := range capabilities {
			if works(c)[c] {
				s.t.Errorf("the unit leaves CAP_%s, which nobody needs", strings.ToUpper(c))
			}
		}
		s.Kill()
		s.Wrap = within(capabilities, "")
		s.MustStart()
	})
}

// publishes adds a container that publishes one port, and removes it.
func (s *troubled) publishes(port int) error {
	s.t.Helper()
	s.must(s.addContainer(3))
	err := s.call("ProgramExternalConnectivity", 3, fmt.Sprintf(`,"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":%d,"HostPortEnd":%[1]d}]}`, port))
	s.must(s.removeContainer(3))
	return err
}

// names reports whether a port that the test holds is refused with that process's name.
func (s *troubled) names(port int, holder string) bool {
	s.t.Helper()
	var l net.Listener
	var err error
	s.Host.Do(func() { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
	s.must(err)
	defer l.Close()
	return strings.Contains(s.publishes(port).Error(), "address already in use by "+holder+" (pid ")
}

// namesOther is names of a process of somebody else's.
func (s *troubled) namesOther(port int, holder string) bool {
	s.t.Helper()
	var l net.Listener
	var err error
	s.Host.Do(func() { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
	s.must(err)
	file, err := l.(*net.TCPListener).File()
	s.must(err)
	other := exec.Command("setpriv", "--reuid=65534", "--clear-groups", "--", "sleep", "1000")
	other.ExtraFiles = []*os.File{file}
	s.must(other.Start())
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	l.Close()
	file.Close()
	lab.Until(s.t, "the other process has the port", func() error {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", other.Process.Pid))
		if err == nil && strings.TrimSpace(string(name)) != holder {
			err = fmt.Errorf("it is %s yet", name)
		}
		return err
	})
	return strings.Contains(s.publishes(port).Error(), "address already in use by "+holder+" (pid ")
}
