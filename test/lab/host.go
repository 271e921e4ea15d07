package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Host is one machine: a network namespace that has no name and lives as long
// as the test.
type Host struct {
	t    testing.TB
	name string
	ns   netns.NsHandle

	Addr  netip.Addr // on eth0, e.g. 192.0.2.1; invalid for a machine of NewHost
	Addr6 netip.Addr // on eth0, e.g. 2001:db8:1::1
}

// NewHost makes a machine that is connected to nothing. Tests of one layer
// need no more than this.
func NewHost(t testing.TB) *Host {
	t.Helper()
	return newHost(t, "host")
}

func newHost(t testing.TB, name string) *Host {
	t.Helper()
	h := &Host{t: t, name: name, ns: netns.None()}
	h.renew()
	t.Cleanup(h.close)
	return h
}

// renew gives the machine a new namespace in place of the one that it has.
func (h *Host) renew() {
	h.t.Helper()
	if h.ns.IsOpen() {
		h.close()
	}
	var err error
	onOwnThread(func() { h.ns, err = netns.New() })
	if err != nil {
		h.t.Fatalf("new network namespace: %v (run as root or under unshare -rn)", err)
	}
	h.Run("ip", "link", "set", "lo", "up")
	// A new namespace takes these over from the machine that runs the tests.
	for key, value := range map[string]string{
		"net/ipv4/ip_forward":              "0",
		"net/ipv4/conf/all/rp_filter":      "0",
		"net/ipv4/conf/default/rp_filter":  "0",
		"net/ipv6/conf/all/forwarding":     "0",
		"net/ipv6/conf/all/accept_ra":      "1",
		"net/ipv6/conf/default/accept_ra":  "1",
		"net/ipv6/conf/all/disable_ipv6":   "0",
		"net/ipv6/conf/default/accept_dad": "1",
	} {
		h.Set(key, value)
	}
}

func (h *Host) close() {
	if err := h.ns.Close(); err != nil {
		h.t.Errorf("close namespace of %s: %v", h.name, err)
	}
}

// onOwnThread runs f on a thread that dies with it, so that whatever f does to
// its thread's namespaces meets nobody else.
func onOwnThread(f func()) (finished bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		f()
		finished = true
	}()
	<-done
	return finished
}

// Do runs f in the machine's network namespace. Sockets that f opens stay in
// that namespace; goroutines that f starts do not. f may fail the test.
func (h *Host) Do(f func()) {
	h.t.Helper()
	var err error
	finished := onOwnThread(func() {
		if err = netns.Set(h.ns); err == nil {
			f()
		}
	})
	if err != nil {
		h.t.Fatalf("enter namespace of %s: %v", h.name, err)
	}
	if !finished {
		h.t.FailNow() // f has called FailNow in its own goroutine
	}
}

// Try runs a command in the namespace and returns what it printed.
func (h *Host) Try(name string, args ...string) (string, error) {
	h.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "XTABLES_LOCKFILE="+os.DevNull)
	return h.output(cmd)
}

// Run is Try, and fails the test if the command does.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Try(name, args...)
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	return out
}

// Feed is Run with an input, e.g. for nft -f -.
func (h *Host) Feed(input, name string, args ...string) string {
	h.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := h.output(cmd)
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	return out
}

func (h *Host) output(cmd *exec.Cmd) (string, error) {
	h.t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var err error
	h.Do(func() { err = cmd.Run() })
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Set writes a sysctl, named as below /proc/sys.
func (h *Host) Set(key, value string) {
	h.t.Helper()
	var err error
	h.Do(func() { err = os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
}

// Sysctl reads a sysctl, named as below /proc/sys.
func (h *Host) Sysctl(key string) string {
	h.t.Helper()
	var value []byte
	var err error
	h.Do(func() { value, err = os.ReadFile(filepath.Join("/proc/sys", key)) })
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	return strings.TrimSpace(string(value))
}

func (h *Host) setIfThere(key, value string) {
	h.Do(func() { _ = os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
}

// Route adds a route to the prefix through another machine.
func (h *Host) Route(to netip.Prefix, via *Host) {
	h.t.Helper()
	gateway := via.Addr
	if to.Addr().Is6() {
		gateway = via.Addr6
	}
	h.Run("ip", "route", "add", to.String(), "via", gateway.String())
}

// Serve answers questions on the machine, in the machine's name, until the
// test ends. The network is tcp or udp, with an optional 4 or 6.
func (h *Host) Serve(network, address string) *hello.Server {
	h.t.Helper()
	var server *hello.Server
	var err error
	h.Do(func() { server, err = hello.Serve(network, address, h.name) })
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	h.t.Cleanup(server.Close)
	return server
}

// Dial begins a conversation with a server; it ends with the test.
func (h *Host) Dial(network, address string) *hello.Conn {
	h.t.Helper()
	var conn *hello.Conn
	var err error
	h.Do(func() { conn, err = hello.Dial(network, address, hello.Patience) })
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return conn
}

// Ask puts one question to a server, which has five seconds to answer.
func (h *Host) Ask(network, address string) (hello.Answer, error) {
	h.t.Helper()
	return h.AskFor(network, address, hello.Patience)
}

// Bind holds a port without serving it, until the test ends.
func (h *Host) Bind(network string, addr netip.AddrPort) {
	h.t.Helper()
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	var fd int
	var err error
	h.Do(func() {
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, sockaddr)
		}
	})
	if err != nil {
		h.t.Fatalf("bind %s/%s on %s: %v", addr, network, h.name, err)
	}
	h.t.Cleanup(func() { unix.Close(fd) })
}

// MustReach fails the test unless the named server answers; it returns where
// that server saw the question come from.
func (h *Host) MustReach(network, address, server string) netip.AddrPort {
	h.t.Helper()
	answer, err := h.Ask(network, address)
	if err != nil {
		h.t.Fatalf("%s -> %s/%s: want an answer of %s: %v", h.name, address, network, server, err)
	}
	if answer.Server != server {
		h.t.Fatalf("%s -> %s/%s: want an answer of %s, got %v", h.name, address, network, server, answer)
	}
	return answer.Client
}

// MustNotReach fails the test unless the question has the given fate, refuse
// or drop.
func (h *Host) MustNotReach(network, address string, want hello.Verdict) {
	h.t.Helper()
	answer, err := h.AskFor(network, address, hello.Impatience)
	if got := hello.Judge(err); got != want {
		h.t.Fatalf("%s -> %s/%s: want %s, got %s: %v %v", h.name, address, network, want, got, answer, err)
	}
}

// AskFor is Ask with another time to answer.
func (h *Host) AskFor(network, address string, wait time.Duration) (answer hello.Answer, err error) {
	h.t.Helper()
	h.Do(func() { answer, err = hello.Ask(network, address, wait) })
	return answer, err
}

// path names the namespace for other processes, e.g. ip link … netns PATH.
func (h *Host) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns))
}
