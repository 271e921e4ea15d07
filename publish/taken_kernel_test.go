package publish_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestKernelPublishRefusesATakenPortAndNamesTheTaker(t *testing.T) {
	self := fmt.Sprintf("(pid %d)", os.Getpid())
	for _, c := range []struct {
		name, network, listen string
		port                  spec.Port
		want                  string
	}{
		{"every address against one", "tcp", "127.0.0.1:8080", port(spec.TCP, "", 8080, 1), "port 8080/tcp on every address: address already in use by "},
		{"every address against IPv6", "tcp", "[::1]:8080", port(spec.TCP, "", 8080, 1), "port 8080/tcp on every address: address already in use by "},
		{"every IPv4 address against one", "udp", "127.0.0.1:53", port(spec.UDP, "0.0.0.0", 53, 1), "port 53/udp on 0.0.0.0: address already in use by "},
		{"one against every IPv4 address", "tcp", "0.0.0.0:8080", port(spec.TCP, "127.0.0.1", 8080, 1), "port 8080/tcp on 127.0.0.1: address already in use by "},
		{"one against every address of both families", "tcp", "[::]:8080", port(spec.TCP, "127.0.0.1", 8080, 1), "port 8080/tcp on 127.0.0.1: address already in use by "},
		{"every IPv6 address against one", "udp", "[::1]:8080", port(spec.UDP, "::", 8080, 1), "port 8080/udp on ::: address already in use by "},
		{"a range against its last", "tcp", "0.0.0.0:8089", port(spec.TCP, "", 8080, 10), "port 8089/tcp on every address: address already in use by "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.host.Serve(c.network, c.listen)
			err := b.apply(nil, alone(t, c.port))
			wantObject(t, err, unix.EADDRINUSE)
			if !strings.HasPrefix(err.Error(), c.want) || !strings.HasSuffix(err.Error(), self) {
				t.Errorf("error %q, want %q … %q", err, c.want, self)
			}
			free := plan.New(spec.State{}, &plan.Host{})
			b.mustCheck(free)
		})
	}
}

func TestKernelPublishRefusesAnAddressThatTheHostLacks(t *testing.T) {
	for _, host := range []string{"192.0.2.99", "2001:db8::99"} {
		b := newBench(t)
		err := b.apply(nil, alone(t, port(spec.TCP, host, 8080, 1)))
		wantObject(t, err, unix.EADDRNOTAVAIL)
		if want := "port 8080/tcp on " + host + ": the host has no such address"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}

func TestKernelPublishNamesWhoTookAPortUntilItIsFree(t *testing.T) {
	b := newBench(t)
	var taker *hello.Server
	var err error
	b.host.Do(func() { taker, err = hello.Serve("tcp", "127.0.0.1:8006", "taker") })
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	self := fmt.Sprintf("%s (pid %d)", comm(t), os.Getpid())
	want := planned(t, map[spec.ID][]spec.Port{one: {port(spec.TCP, "", 8000, 10), port(spec.TCP, "", 8100, 1)}, two: {port(spec.UDP, "", 8006, 1)}})
	wantObject(t, b.apply(nil, want), unix.EADDRINUSE)
	b.mustCheck(want, "port 8000-8009/tcp on every address held: want 10, got 0, 8006 is taken by "+self,
		"port 8100/tcp on every address held: want 1, got nothing")

	woken := make(chan bool, 1)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error)
	go b.host.Do(func() {
		ended <- b.Watch(ctx, func() {
			select {
			case woken <- true:
			default:
			}
		})
	})
	taker.Close()
	select {
	case <-woken:
	case <-time.After(hello.Patience):
		t.Error("nobody was told that the port is free")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	b.mustApply(nil, want)
}

// unable is a server that can serve nobody.
type unable struct{}

func (unable) Serve(int, proxy.Route) error { return unix.ENOSPC }
func (unable) Forget(int)                   {}
func (unable) Files() int                   { return 0 }

func TestKernelPublishIsWokenOnlyForWhatSomebodyHas(t *testing.T) {
	host := lab.NewHost(t)
	ports := publish.New(unable{}, &publish.Internal{})
	served := serving(servedRow{proxy6: plan.Proxy{To: inner6}})
	var freed bool
	host.Do(func() {
		wantObject(t, ports.Apply(t.Context(), nil, served), unix.ENOSPC)
		freed = ports.Freed()
	})
	if freed {
		t.Error("a free port that cannot be served wakes again and again")
	}
}

func comm(t testing.TB) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// fakeEngine, in the environment, has a test hold the port that an engine would.
const fakeEngine = "PUBLISH_TEST_ENGINE"

func TestKernelPublishNamesWhatAnEngineHoldsAPortFor(t *testing.T) {
	if os.Getenv(fakeEngine) != "" {
		holdAsEngine(t)
		return
	}
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"docker-proxy", "Docker's proxy for 172.17.0.2:80 (docker-proxy, pid %d)", []string{"-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8080", "-container-ip", "172.17.0.2", "-container-port", "80", "-use-listen-fd"}},
		{"docker-proxy", "Docker's proxy for [fd00::2]:80 (docker-proxy, pid %d)", []string{"--container-ip", "fd00::2", "--container-port", "80"}},
		{"docker-proxy", "docker-proxy (pid %d)", nil},
		{"dockerd", "Docker, which publishes it (dockerd, pid %d)", nil},
	} {
		b := newBench(t)
		cmd := b.engine(c.name, c.args...)
		err := b.apply(nil, alone(t, port(spec.TCP, "", 8080, 1)))
		wantObject(t, err, unix.EADDRINUSE)
		if want := fmt.Sprintf("port 8080/tcp on every address: address already in use by "+c.want, cmd.Process.Pid); err.Error() != want {
			t.Errorf("(-want +got):\n- %s\n+ %s", want, err)
		}
	}
}

// engine runs this test as a program of an engine's, which holds 8080.
func (b *bench) engine(name string, args ...string) *exec.Cmd {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	program := filepath.Join(b.TempDir(), name)
	if err := os.Symlink(self, program); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"-test.run=^TestKernelPublishNamesWhatAnEngineHoldsAPortFor$", "--"}, args...)...)
	cmd.Env = append(os.Environ(), fakeEngine+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	b.host.Do(func() { err = cmd.Start() })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	return cmd
}

// holdAsEngine lasts as long as its input.
func holdAsEngine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fmt.Fprintln(os.Stdout, "listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// fewFiles, in the environment, has a test run with a low limit.
const fewFiles = "PUBLISH_TEST_FEW_FILES"

func TestKernelPublishNamesTheLimitOfOpenFiles(t *testing.T) {
	if os.Getenv(fewFiles) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), fewFiles+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1000, Max: 1000}); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	kept := 256 + b.proxy.Files()
	room := uint16(1000 - kept)
	few, many := alone(t, port(spec.UDP, "", 8000, room)), alone(t, port(spec.UDP, "", 8000, room+1))
	b.mustApply(nil, few)
	err := b.apply(few, many)
	wantObject(t, err, unix.EMFILE)
	want := fmt.Sprintf("port %d/udp on every address: too many open files: each port that is held is one, %d are, 1 are to be, and the daemon may open 1000, "+
		"of which it keeps %d for all else: raise its limit (LimitNOFILE of the service, for a managed plugin that of the engine)", 8000+room, room, kept)
	if err.Error() != want {
		t.Errorf("(-want +got):\n- %s\n+ %s", want, err)
	}
	b.mustApply(nil, few)
}

// TestKernelPublishHasThePortOfWhoBoundItAndDoesNotListen is about the moment between the
// two: whoever listens first has the port.
func TestKernelPublishHasThePortOfWhoBoundItAndDoesNotListen(t *testing.T) {
	b := newBench(t)
	var other int
	b.host.Do(func() {
		var err error
		if other, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = errors.Join(unix.SetsockoptInt(other, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(other, &unix.SockaddrInet4{Port: 8080}))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	defer unix.Close(other)
	want := alone(t, port(spec.TCP, "", 8080, 1))
	b.mustApply(nil, want)
	if err := unix.Listen(other, 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the other one listens: %v", err)
	}
	b.mustApply(want, nobody)
	if err := unix.Listen(other, 1); err != nil {
		t.Fatal(err)
	}
	wantObject(t, b.apply(nil, want), unix.EADDRINUSE)
}
