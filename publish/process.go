package publish

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// The programs of an engine that hold ports.
const (
	dockerd     = "dockerd"
	dockerProxy = "docker-proxy"
)

// process is one that has a socket open.
type process struct {
	dir  string // e.g. /proc/4711
	name string // e.g. nginx
}

// rank puts first who tells most: an engine opens the sockets of its proxies itself, and
// hands them over.
func (p process) rank() int {
	if p.name == dockerProxy {
		return 0
	}
	return 1
}

// ended reports whether there is no such process any more. One of another name has begun
// to run another program, or is another to which the same PID was given.
func (p process) ended() bool {
	name, err := nameOf(p.dir)
	return err != nil || name != p.name
}

// String says who it is, and of an engine's for what.
func (p process) String() string {
	pid := filepath.Base(p.dir)
	switch p.name {
	case dockerd:
		return fmt.Sprintf("Docker, which publishes it (%s, pid %s)", p.name, pid)
	case dockerProxy:
		if to := p.proxied(); to != "" {
			return fmt.Sprintf("Docker's proxy for %s (%s, pid %s)", to, p.name, pid)
		}
	}
	return fmt.Sprintf("%s (pid %s)", p.name, pid)
}

// proxied is where an engine's proxy leads, e.g. 172.17.0.2:80, from its command line.
func (p process) proxied() string {
	line, err := os.ReadFile(filepath.Join(p.dir, "cmdline"))
	if err != nil {
		return ""
	}
	flags := map[string]string{}
	args := strings.Split(string(line), "\x00")
	for i, arg := range args[1:] {
		if strings.HasPrefix(arg, "-") {
			flags[strings.TrimLeft(arg, "-")] = args[min(i+2, len(args)-1)]
		}
	}
	to, err := netip.ParseAddrPort(net.JoinHostPort(flags["container-ip"], flags["container-port"]))
	if err != nil {
		return "" // anybody may call himself so
	}
	return to.String()
}

// nameOf is what a process calls itself.
func nameOf(dir string) (string, error) {
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	return printable(strings.TrimSpace(string(comm))), err
}

// printable is a name that anybody may have given a process of his, without what would move
// the cursor of whoever reads it.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}

// readProcesses finds who has which sockets open.
func readProcesses() map[string][]process {
	all := map[string][]process{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return all
	}
	for _, dir := range dirs {
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // it has ended, or is none of ours to see
		}
		name, err := nameOf(dir)
		if err != nil {
			continue
		}
		p := process{dir, name}
		for _, f := range files {
			target, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
			if err != nil {
				continue
			}
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inode = strings.TrimSuffix(inode, "]")
				all[inode] = append(all[inode], p)
			}
		}
	}
	return all
}
