package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// PluginSocket is where the engine finds Drawbridge in its private /run.
const PluginSocket = "/run/docker/plugins/drawbridge.sock"

// StartDaemon starts Drawbridge beside the engine and waits for its socket.
// Args are more flags for serve; DRAWBRIDGE_FIREWALL is one that all tests can be run
// with. Its state outlives a restart, as /var/lib would.
func (e *Engine) StartDaemon(args ...string) {
	e.t.Helper()
	socket := PluginSocket
	if e.tapped {
		socket = behindTap
	}
	serve := append([]string{"serve", "--plugin-socket", socket, "--state-dir", filepath.Join(e.dir, "drawbridge")}, args...)
	if firewall := os.Getenv("DRAWBRIDGE_FIREWALL"); firewall != "" {
		serve = append(serve, "--firewall="+firewall)
	}
	var prepare []func() error
	if e.refused {
		prepare = append(prepare, refuseNetfilter)
	}
	command := e.Command(e.drawbridge(), serve...)
	command.Env = append(command.Environ(), e.failpoints.env()...)
	e.daemon = e.world.service("drawbridge", command, prepare...)
	e.accepts(socket, e.daemon)
}

// StopDaemon ends Drawbridge as a service manager does.
func (e *Engine) StopDaemon() {
	e.t.Helper()
	e.daemon.end(syscall.SIGTERM)
}

// KillDaemon ends Drawbridge without a warning.
func (e *Engine) KillDaemon() {
	e.t.Helper()
	e.daemon.end(syscall.SIGKILL)
}

// DaemonDone is closed when Drawbridge has ended.
func (e *Engine) DaemonDone() <-chan struct{} { return e.daemon.done }

// DaemonPid returns the process ID of Drawbridge as the test sees it.
func (e *Engine) DaemonPid() int { return e.daemon.cmd.Process.Pid }

// DaemonLog returns all that Drawbridge has logged so far, "" before its first start. As
// a managed plugin it logs in lines of the engine's.
func (e *Engine) DaemonLog() string {
	switch {
	case e.plugin != "":
		return e.DockerLog()
	case e.daemon == nil:
		return ""
	}
	return tail(e.daemon.log, 1<<30)
}

// Drawbridge runs a command of the operator's, e.g. Drawbridge("status").
func (e *Engine) Drawbridge(args ...string) (string, error) {
	e.t.Helper()
	return e.Try(e.drawbridge(), args...)
}

// ServeRootless starts Drawbridge in namespaces such as a rootless engine of user 1000
// has, and returns what it ended with.
func (e *Engine) ServeRootless() error {
	e.t.Helper()
	dir := e.t.TempDir()
	cmd := exec.CommandContext(e.t.Context(), e.drawbridge(), "serve", "--state-dir", dir, "--run-dir", dir,
		"--plugin-socket", dir+"/drawbridge.sock", "--admin-socket", dir+"/admin.sock")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: ids, GidMappings: ids,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// drawbridge returns the program under test: the one that DRAWBRIDGE_BINARY
// names, else one built from this tree.
func (e *Engine) drawbridge() string {
	e.t.Helper()
	if program := os.Getenv("DRAWBRIDGE_BINARY"); program != "" && e.failpoints == nil {
		return program
	}
	if e.failpoints != nil {
		return goBuild(e.t, "cmd/drawbridge", "failpoints")
	}
	return goBuild(e.t, "cmd/drawbridge")
}
