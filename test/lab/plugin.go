package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// PluginName is the name of Drawbridge, and of its two drivers, as a managed plugin.
const PluginName = "drawbridge/drawbridge:latest"

// CreatePlugin makes Drawbridge a managed plugin of the engine, not yet enabled, by what
// `make plugin` does with the program under test.
func (e *Engine) CreatePlugin() {
	e.t.Helper()
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		e.t.Fatalf("find the module: %v", err)
	}
	// The root file system is made of this machine's programs and libraries, hence
	// not beside the engine.
	cmd := exec.Command("make", "-C", filepath.Dir(strings.TrimSpace(string(mod))), "--old-file=build", "plugin",
		"bin="+filepath.Dir(e.drawbridge()), "dist="+e.dir, "DOCKER="+e.program("docker"))
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Outer("/run/docker.sock"), "DOCKER_CONFIG="+e.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("make plugin: %v: %s", err, out)
	}
	e.plugin = strings.TrimSpace(e.Docker("plugin", "inspect", "-f", "{{.Id}}", PluginName))
}

// EnablePlugin starts the plugin. When it returns, the engine knows its drivers.
func (e *Engine) EnablePlugin() {
	e.t.Helper()
	e.Docker("plugin", "enable", PluginName)
}

// DisablePlugin stops the plugin, even while it has networks.
func (e *Engine) DisablePlugin() {
	e.t.Helper()
	e.Docker("plugin", "disable", "-f", PluginName)
}

// PluginPid returns the process ID of the plugin as commands beside the engine see it.
func (e *Engine) PluginPid() string {
	e.t.Helper()
	pid, err := e.Try("pidof", "drawbridge")
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(pid)
}

// pluginCgroups names those of the plugin. An engine does not put them below its own
// parent for containers but where it is itself, in every hierarchy.
func (e *Engine) pluginCgroups() []string {
	if e.plugin == "" {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		e.t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(own)) {
		// e.g. 3:cpuset:/somewhere
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			names = append(names, filepath.Join(fields[2], e.plugin))
		}
	}
	return names
}
