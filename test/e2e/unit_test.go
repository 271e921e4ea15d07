package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// unitMounts are what the unit makes of the file system, for whoever has the directory of
// the test and not those below /var/lib.
const unitMounts = `
mount --bind %s %[1]s
mkdir -p %[1]s/dev
mount -t tmpfs -o mode=755 dev %[1]s/dev
for node in null zero full random urandom tty; do
	touch %[1]s/dev/$node
	mount --bind /dev/$node %[1]s/dev/$node
done
mount --rbind %[1]s/dev /dev
mount --bind /run /run
mount -t proc -o hidepid=invisible proc /proc
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
mount --bind /sys /sys
mount -o remount,bind,ro /sys
mount -o remount,bind,ro /
! touch /etc/drawbridge-was-here 2>/dev/null
`

// unitCapabilities are what the unit leaves to the daemon, e.g. net_admin.
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	var capabilities []string
	for _, c := range unitSetting(t, "CapabilityBoundingSet") {
		capabilities = append(capabilities, strings.TrimPrefix(strings.ToLower(c), "cap_"))
	}
	return capabilities
}

// unitSetting is what the unit says of a setting, in all its lines.
func unitSetting(t *testing.T, name string) []string {
	t.Helper()
	unit, err := os.ReadFile("../../packaging/drawbridge.service")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, line := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllSubmatch(unit, -1) {
		list := strings.Fields(string(line[1]))
		if takes, ok := strings.CutPrefix(list[0], "~"); ok { // all of the line
			list[0] = takes
			for i := range list {
				list[i] = "~" + list[i]
			}
		}
		words = append(words, list...)
	}
	if words == nil {
		t.Fatalf("the unit has no %s", name)
	}
	return words
}

// unitConfinement are words that leave a command the system calls that the unit leaves to
// the daemon and to what it starts.
func unitConfinement(t *testing.T) []string {
	t.Helper()
	calls := map[string]bool{}
	groups := systemdGroups(t)
	groups.each("@default", func(call string) { calls[call] = true }) // whatever a unit allows
	for _, word := range unitSetting(t, "SystemCallFilter") {
		name, taken := strings.CutPrefix(word, "~")
		groups.each(name, func(call string) { calls[call] = !taken })
	}
	maps.DeleteFunc(calls, func(_ string, allowed bool) bool { return !allowed })
	numbers := map[string]int{
		"AF_UNIX": unix.AF_UNIX, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6,
		"AF_NETLINK": unix.AF_NETLINK, "AF_PACKET": unix.AF_PACKET,
	}
	var families []int
	for _, name := range unitSetting(t, "RestrictAddressFamilies") {
		family, ok := numbers[name]
		if !ok {
			t.Fatalf("the unit allows %s, of which this test does not know the number", name)
		}
		families = append(families, family)
	}
	return lab.Confined(t, slices.Sorted(maps.Keys(calls)), families)
}

// callGroups are what systemd means by e.g. @system-service: names of calls and groups.
type callGroups map[string][]string

// systemdFile is where they are written down, as systemd-analyze syscall-filter of that
// version lists them. Later ones have more in them.
const systemdFile = "testdata/systemd-252.txt"

func systemdGroups(t *testing.T) callGroups {
	t.Helper()
	text, err := os.ReadFile(systemdFile)
	if err != nil {
		t.Fatal(err)
	}
	groups := callGroups{}
	for line := range strings.Lines(string(text)) {
		name, members, _ := strings.Cut(strings.TrimSpace(line), ": ")
		groups[name] = strings.Fields(members)
	}
	return groups
}

// each shows the calls of a group and of those in it, or a call itself.
func (g callGroups) each(name string, show func(call string)) {
	if !strings.HasPrefix(name, "@") {
		show(name)
		return
	}
	for _, member := range g[name] {
		g.each(member, show)
	}
}

// TestWhatSystemdMeansByItsGroupsIsWrittenDown where systemd is there to be asked, in the
// version that was.
func TestWhatSystemdMeansByItsGroupsIsWrittenDown(t *testing.T) {
	version, err := exec.CommandContext(t.Context(), "systemd-analyze", "--version").Output()
	if err != nil || !strings.HasPrefix(string(version), "systemd 252 ") {
		t.Logf("it cannot be asked: %v %.12s", err, version)
		return
	}
	groups := systemdGroups(t)
	for _, word := range unitSetting(t, "SystemCallFilter") {
		if name := strings.TrimPrefix(word, "~"); groups[name] == nil {
			t.Errorf("%s has no %s", systemdFile, name)
		}
	}
	for name, members := range groups {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "--no-pager", "syscall-filter", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for line := range strings.Lines(string(out)) {
			if member, ok := strings.CutPrefix(line, "    "); ok && !strings.HasPrefix(member, "#") {
				listed = append(listed, strings.TrimSpace(member))
			}
		}
		if !slices.Equal(listed, members) {
			t.Errorf("%s is %v, %s has %v", name, listed, systemdFile, members)
		}
	}
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

// TestEngineIsServedWithWhatTheUnitAllows of capabilities, mounts and system calls, with
// either firewall and the commands that one of them needs; and each capability that the unit
// leaves is needed: without it something is missing that can be named.
func TestEngineIsServedWithWhatTheUnitAllows(t *testing.T) {
	capabilities, confinement := unitCapabilities(t), unitConfinement(t)
	inTrouble(t, func(s *troubled) {
		s.Wrap, s.Before = append(within(capabilities, ""), confinement...), fmt.Sprintf(unitMounts, s.Dir())
	}, func(s *troubled) {
		for command, ends := range map[string]bool{"true": false, "chroot / true": true, "unshare --net true": true} {
			words := append(slices.Clone(confinement[1:]), strings.Fields(command)...)
			if _, err := s.Host.Try(confinement[0], words...); (err != nil) != ends || ends && !strings.Contains(err.Error(), "bad system call") {
				s.t.Errorf("%s, confined: %v", command, err)
			}
		}
		works := func(without string) map[string]bool {
			s.Kill()
			s.Wrap = append(within(capabilities, without), confinement...)
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
		s.Wrap = append(within(capabilities, ""), confinement...)
		s.hadTables = true
		s.MustStart("--firewall=iptables")
		s.servesOneMore()
		s.Kill()
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
