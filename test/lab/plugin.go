package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// PluginName is the name of Drawbridge, and of its two drivers, as a managed plugin.
const PluginName = "drawbridge/drawbridge:latest"

// CreatePlugin makes Drawbridge a managed plugin of the engine, not yet enabled,
// from the directory that `make plugin` makes too.
func (e *Engine) CreatePlugin() {
	e.t.Helper()
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		e.t.Fatalf("find the module: %v", err)
	}
	top, dir := filepath.Dir(strings.TrimSpace(string(mod))), filepath.Join(e.dir, "plugin")
	if out, err := exec.Command(filepath.Join(top, "packaging/rootfs"), e.drawbridge(), filepath.Join(dir, "rootfs")).CombinedOutput(); err != nil {
		e.t.Fatalf("make the plugin's root file system: %v: %s", err, out)
	}
	config, err := os.ReadFile(filepath.Join(top, "config.json"))
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		e.t.Fatal(err)
	}
	e.Docker("plugin", "create", PluginName, dir)
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
