package lab

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A bus that lets everybody do everything: whoever is in the world is root.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
`

// firewalldDirs are where firewalld's configuration lies in the engine's directory: what
// comes with packages, and what the administrator makes.
const (
	packagedDir = "firewalld/lib"
	ownDir      = "firewalld/etc"
)

// StartFirewalld starts Debian's firewalld on Host, as it comes, and before the first
// start a system bus. Its configuration outlives a restart. An engine takes part only if
// it is started later.
func (e *Engine) StartFirewalld() {
	e.t.Helper()
	if e.bus == nil {
		e.layOutFirewalld()
		if err := os.Mkdir(e.Outer("/run/dbus"), 0o755); err != nil {
			e.t.Fatal(err)
		}
		e.bus = e.world.service("dbus-daemon", e.besideFirewalld(e.fromFirewalld("usr/bin/dbus-daemon"),
			"--nofork", "--nopidfile", "--config-file", e.File("bus.conf", busConfig)))
		e.accepts("/run/dbus/system_bus_socket", e.bus)
	}
	e.firewalld = e.world.service("firewalld", e.besideFirewalld("/usr/bin/python3", e.fromFirewalld("usr/sbin/firewalld"),
		"--nofork", "--nopid", "--log-target", "console",
		"--default-config", filepath.Join(e.dir, packagedDir), "--system-config", filepath.Join(e.dir, ownDir)))
	within(e.t, time.Minute, "firewalld answers", func() error {
		if err := e.firewalld.alive(); err != nil {
			return err
		}
		_, err := e.TryFirewallCmd("--state")
		return err
	})
}

// StopFirewalld ends it as a service manager does: its rules go.
func (e *Engine) StopFirewalld() {
	e.t.Helper()
	e.firewalld.end(syscall.SIGTERM)
}

// FreezeFirewalld has it answer nothing until it is thawed.
func (e *Engine) FreezeFirewalld() { e.signalFirewalld(syscall.SIGSTOP) }

// ThawFirewalld has it go on.
func (e *Engine) ThawFirewalld() { e.signalFirewalld(syscall.SIGCONT) }

func (e *Engine) signalFirewalld(signal os.Signal) {
	e.t.Helper()
	if err := e.firewalld.cmd.Process.Signal(signal); err != nil {
		e.t.Fatalf("%s firewalld: %v", signal, err)
	}
}

// FirewallCmd runs firewall-cmd and returns what it printed.
func (e *Engine) FirewallCmd(args ...string) string {
	e.t.Helper()
	out, err := e.TryFirewallCmd(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TryFirewallCmd is FirewallCmd that may fail.
func (e *Engine) TryFirewallCmd(args ...string) (string, error) {
	return e.world.output(e.besideFirewalld("/usr/bin/python3", append([]string{e.fromFirewalld("usr/bin/firewall-cmd")}, args...)...))
}

// InstallZones copies files such as zones/web.xml to where packages have theirs.
func (e *Engine) InstallZones(files fs.FS) {
	e.t.Helper()
	if err := os.CopyFS(filepath.Join(e.dir, packagedDir), files); err != nil {
		e.t.Fatal(err)
	}
}

// UninstallZones removes them again.
func (e *Engine) UninstallZones(files fs.FS) {
	e.t.Helper()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Remove(filepath.Join(e.dir, packagedDir, path))
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

// FirewalldFiles are the files that the administrator, or whoever changes firewalld's
// permanent configuration, has made, as text.
func (e *Engine) FirewalldFiles() string {
	e.t.Helper()
	var all strings.Builder
	root := os.DirFS(filepath.Join(e.dir, ownDir))
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, path)
		fmt.Fprintf(&all, "%s:\n%s\n", path, content)
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return all.String()
}

// layOutFirewalld copies the configuration that the packages bring.
func (e *Engine) layOutFirewalld() {
	e.t.Helper()
	for to, from := range map[string]string{packagedDir: "usr/lib/firewalld", ownDir: "etc/firewalld"} {
		if err := os.CopyFS(filepath.Join(e.dir, to), os.DirFS(e.fromFirewalld(from))); err != nil {
			e.t.Fatalf("%v: run test/engines/fetch", err)
		}
	}
}

// fromFirewalld is a path in the unpacked packages.
func (e *Engine) fromFirewalld(path string) string {
	return filepath.Join(filepath.Dir(e.debian), "firewalld", path)
}

// besideFirewalld prepares a command that finds firewalld's libraries.
func (e *Engine) besideFirewalld(name string, args ...string) *exec.Cmd {
	cmd := e.Command(name, args...)
	libraries := e.libraries(e.fromFirewalld(""))
	var typelibs []string
	for _, dir := range strings.Split(libraries, ":") {
		typelibs = append(typelibs, filepath.Join(dir, "girepository-1.0"))
	}
	cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libraries,
		"PYTHONPATH="+e.fromFirewalld("usr/lib/python3/dist-packages"), "GI_TYPELIB_PATH="+strings.Join(typelibs, ":"))
	return cmd
}
