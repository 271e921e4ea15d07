package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The engines that every promise is shown on.
const (
	Oldest = "20.10"  // Debian 12's docker.io
	Newest = "newest" // moby as test/engines/fetch builds it
)

// RemapUser is who owns the IDs that an engine with --userns-remap gives containers.
const RemapUser = "daemon"

// EachEngine runs a test on each engine, side by side. DRAWBRIDGE_ENGINES, a
// list with commas, narrows the choice.
func EachEngine(t *testing.T, test func(t *testing.T, engine string)) {
	t.Helper()
	EachOf(t, []string{Oldest, Newest}, test)
}

// EachOf is EachEngine for some of the engines.
func EachOf(t *testing.T, engines []string, test func(t *testing.T, engine string)) {
	t.Helper()
	wanted := os.Getenv("DRAWBRIDGE_ENGINES")
	for _, engine := range engines {
		if wanted != "" && !strings.Contains(","+wanted+",", ","+engine+",") {
			continue
		}
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

// Engine is a private Docker engine on a lab's Host: in mount and process
// namespaces of its own, with an empty /run, its own data root, containerd and
// cgroup. Sockets in /run have their usual names, e.g. /run/docker.sock, and
// nobody else sees them.
type Engine struct {
	t       testing.TB
	lab     *Lab
	world   *world
	version string
	dir     string   // data roots, configuration and logs
	path    []string // where programs are looked for
	debian  string   // the unpacked packages
	clients string   // where docker is looked for first, "" for nowhere else
	cgroup  string   // e.g. /drawbridge-lab-4711-TestEngineX
	flags   []string // more flags for dockerd
	plugin  string   // the ID of Drawbridge as a managed plugin, "" if it is none

	containerd, dockerd, daemon *process
	bus, firewalld              *process
	tapped                      bool // Drawbridge is behind a Tap
	failpoints                  *Failpoints
	refused                     bool // Drawbridge meets a kernel without netlink for netfilter
}

// Engine starts a private engine on Host. Flags are handed to dockerd.
func (l *Lab) Engine(version string, flags ...string) *Engine {
	l.t.Helper()
	return l.engine(version, "", flags)
}

// LegacyEngine starts one that writes its rules by legacy iptables.
func (l *Lab) LegacyEngine(version string, flags ...string) *Engine {
	l.t.Helper()
	dir := l.t.TempDir()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			program, err := exec.LookPath(family + "-legacy" + what)
			if err == nil {
				err = os.Symlink(program, filepath.Join(dir, family+what))
			}
			if err != nil {
				l.t.Fatal(err)
			}
		}
	}
	return l.engine(version, dir, flags)
}

// engine is Engine with a directory in which programs are looked for first.
func (l *Lab) engine(version, first string, flags []string) *Engine {
	l.t.Helper()
	if os.Getuid() != 0 {
		l.t.Fatal("a private engine needs root")
	}
	cache, err := Cache()
	if err != nil {
		l.t.Fatal(err)
	}
	debian := filepath.Join(cache, "debian")
	e := &Engine{t: l.t, lab: l, version: version, dir: l.scratch(), debian: debian, flags: flags}
	e.path = []string{debian + "/usr/sbin", debian + "/usr/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	if version == Newest {
		e.path = append([]string{filepath.Join(cache, Newest, "bin")}, e.path...)
	}
	if first != "" {
		e.path = append([]string{first}, e.path...)
	}
	if dockerd := e.program("dockerd"); !strings.HasPrefix(dockerd, cache) {
		l.t.Fatalf("engine %s is not in %s: run test/engines/fetch", version, cache)
	}
	// The user of --userns-remap must find its way into the data root.
	if err := os.Chmod(filepath.Dir(e.dir), 0o711); err != nil {
		l.t.Fatal(err)
	}
	e.ownCgroup()
	e.boot()
	e.StartDocker()
	e.importImage()
	return e
}

// Version returns which engine this is, Oldest or Newest.
func (e *Engine) Version() string { return e.version }

// Dir returns a directory of the engine's, the same inside and outside.
func (e *Engine) Dir() string { return e.dir }

// Outer returns where the test's own process finds a file of the engine's
// private /run, e.g. /run/docker.sock.
func (e *Engine) Outer(path string) string { return e.world.path(path) }

// boot opens a world and starts what an engine finds running.
func (e *Engine) boot() {
	e.t.Helper()
	e.world = newWorld(e.lab.Host, e.dir, e.program("tini-static"), e.File("subids", RemapUser+":100000:65536\n"))
	e.startContainerd()
}

// Reboot cuts the power of Host and boots it: its network is that of a new machine,
// /run is empty, what was on disk is there. Neither engine nor Drawbridge is started.
func (e *Engine) Reboot() {
	e.t.Helper()
	e.world.close()
	e.removeCgroups()
	e.lab.reboot()
	e.boot()
}

func (e *Engine) startContainerd() {
	e.t.Helper()
	e.containerd = e.world.service("containerd", e.Command("containerd",
		"--config", e.File("containerd.toml", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), "--root", filepath.Join(e.dir, "containerd")))
	e.accepts("/run/containerd/containerd.sock", e.containerd)
}

// StartDocker starts the engine and waits until it answers. That takes a quarter of a
// minute for each network whose driver it does not find.
func (e *Engine) StartDocker() {
	e.t.Helper()
	e.launchDocker()
	if ended := e.dockerAnswers(); ended != nil {
		e.t.Fatal(ended)
	}
}

// StartDockerDespite is StartDocker by a service manager, which starts an engine again that
// ends: once, and only if it says why. It reports whether that was so.
func (e *Engine) StartDockerDespite(fault string) bool {
	e.t.Helper()
	heard := len(e.DockerLog())
	e.launchDocker()
	ended := e.dockerAnswers()
	switch {
	case ended == nil:
		return false
	case !strings.Contains(e.DockerLog()[heard:], fault):
		e.t.Fatal(ended)
	}
	e.StartDocker()
	return true
}

// dockerAnswers waits until the engine answers, and returns what it has ended with instead.
func (e *Engine) dockerAnswers() (ended error) {
	e.t.Helper()
	within(e.t, time.Minute, "docker answers", func() error {
		if ended = e.dockerd.alive(); ended != nil {
			return nil
		}
		_, err := e.get("/version")
		return err
	})
	return ended
}

func (e *Engine) launchDocker() {
	e.t.Helper()
	args := []string{
		"--config-file", e.File("daemon.json", "{}"), "--data-root", filepath.Join(e.dir, "docker"),
		"--containerd", "/run/containerd/containerd.sock",
		"--cgroup-parent", e.cgroup, "--exec-opt", "native.cgroupdriver=cgroupfs",
	}
	if e.version == Newest {
		// runc is built without seccomp, and Debian's containerd is too old to
		// keep images for this engine.
		args = append(args, "--seccomp-profile=unconfined", "--feature", "containerd-snapshotter=false")
	}
	e.dockerd = e.world.service("dockerd", e.Command("dockerd", append(args, e.flags...)...))
}

// Flags has the engine started with other flags from its next start on.
func (e *Engine) Flags(flags ...string) { e.flags = flags }

// StopDocker ends the engine as a service manager does.
func (e *Engine) StopDocker() {
	e.t.Helper()
	e.dockerd.end(syscall.SIGTERM)
}

// KillDocker ends the engine as the kernel does when memory runs out.
// Containers go on until the engine is started again.
func (e *Engine) KillDocker() {
	e.t.Helper()
	e.dockerd.end(syscall.SIGKILL)
}

// DockerLog returns all that the engine has logged so far.
func (e *Engine) DockerLog() string { return tail(e.dockerd.log, 1<<30) }

// Docker runs the docker command and returns its output; a failure fails the
// test.
func (e *Engine) Docker(args ...string) string {
	e.t.Helper()
	out, err := e.TryDocker(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// TryDocker runs the docker command; the error carries what it complained of.
func (e *Engine) TryDocker(args ...string) (string, error) {
	return e.Try("docker", args...)
}

// Try runs any command beside the engine: in its network, mounts and processes.
func (e *Engine) Try(name string, args ...string) (string, error) {
	return e.world.output(e.Command(name, args...))
}

// TryFor is Try for what may take longer than two minutes, or shall not take that long:
// at the limit the command is killed. What it asked an engine for goes on.
func (e *Engine) TryFor(limit time.Duration, name string, args ...string) (string, error) {
	return e.world.outputWithin(limit, e.Command(name, args...))
}

// Command prepares a command to be run beside the engine. A name is looked for
// among the engine's own programs first; the docker of this machine is never
// used.
func (e *Engine) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(e.program(name), args...)
	cmd.Dir = e.dir
	cmd.Env = []string{
		"PATH=" + strings.Join(e.path, ":"), "HOME=" + e.dir, "LC_ALL=C",
		"LD_LIBRARY_PATH=" + e.libraries(e.debian),
		"PYTHONPATH=" + e.debian + "/usr/lib/python3/dist-packages",
		"DOCKER_CONFIG=" + e.dir, "DOCKER_HOST=unix:///run/docker.sock",
		// The newest engine's way to let the oldest client in.
		"DOCKER_MIN_API_VERSION=1.24",
		// Means "you are in a container", so that no engine loads AppArmor
		// profiles into this machine's kernel.
		"container=drawbridge-lab",
	}
	return cmd
}

// File writes a file into the engine's directory and returns its path.
func (e *Engine) File(name, content string) string {
	e.t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// program finds a program on the engine's own path.
func (e *Engine) program(name string) string {
	for _, dir := range append([]string{e.clients}, e.path...) {
		if path := filepath.Join(dir, name); dir != "" && !strings.Contains(name, "/") && unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return name
}

// libraries lists the directories of the libraries of unpacked packages, whatever the
// machine's architecture.
func (e *Engine) libraries(unpacked string) string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu*", "lib/*-linux-gnu*"} {
		found, _ := filepath.Glob(filepath.Join(unpacked, pattern))
		dirs = append(dirs, found...)
	}
	return strings.Join(dirs, ":")
}

// accepts waits until a service accepts on a socket in the engine's /run.
func (e *Engine) accepts(socket string, p *process) {
	e.t.Helper()
	within(e.t, time.Minute, p.name+" accepts on "+socket, func() error {
		if err := p.alive(); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: e.Outer(socket)})
	})
}

// scratch makes the directory of an engine, in memory where there is room: an engine has
// all that it writes synced, and scenarios would wait for the disk longer than they compute.
func (l *Lab) scratch() string {
	l.t.Helper()
	const memory, room = "/dev/shm", 2 << 30
	var fs unix.Statfs_t
	err := unix.Statfs(memory, &fs)
	fits := err == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&unix.ST_NOEXEC == 0 && fs.Bavail*uint64(fs.Bsize) > room
	if l.OnDisk || !fits {
		return l.t.TempDir()
	}
	parent, err := os.MkdirTemp(memory, "drawbridge-lab-")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := os.RemoveAll(parent); err != nil {
			l.t.Errorf("remove an engine's directory: %v", err)
		}
	})
	dir := filepath.Join(parent, "engine")
	if err := os.Mkdir(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	return dir
}

// ownCgroup names the cgroup below which all containers of the engine are, and
// removes it when the test ends.
func (e *Engine) ownCgroup() {
	e.cgroup = "/drawbridge-lab-" + filepath.Base(filepath.Dir(e.dir)) + "-" + filepath.Base(e.dir)
	e.t.Cleanup(e.removeCgroups)
}

func (e *Engine) removeCgroups() {
	Until(e.t, "remove cgroups "+e.cgroup, func() error {
		mounts, _ := filepath.Glob("/sys/fs/cgroup/*")
		for _, mount := range append(mounts, "/sys/fs/cgroup") {
			for _, name := range append(e.pluginCgroups(), e.cgroup) {
				if err := removeCgroup(mount + name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// removeCgroup removes a cgroup and those below it, whose processes are dead or
// about to be.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) || err != nil && strings.Contains(err.Error(), "not a directory") {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}
