package socket_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drawbridge-net/drawbridge/socket"
)

// listen makes a socket in a directory that does not exist yet.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := socket.Listen(path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

func TestSocketHasItsModeWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o22, 0o77} {
		for _, mode := range []os.FileMode{0o660, 0o600} {
			t.Run(fmt.Sprintf("umask %03o mode %03o", umask, mode), func(t *testing.T) {
				dir := t.TempDir()
				defer syscall.Umask(syscall.Umask(umask))
				path := filepath.Join(dir, "drawbridge.sock")
				l, err := socket.Listen(path, mode)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|mode {
					t.Errorf("mode %v, %v", info.Mode(), err)
				}
				if beside, err := os.ReadDir(dir); err != nil || len(beside) != 1 {
					t.Errorf("beside the socket: %v, %v", beside, err)
				}
			})
		}
	}
}

// TestSocketIsNeverMoreOpen watches a path while sockets come and go there, in a process
// that withholds nothing by itself.
func TestSocketIsNeverMoreOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "drawbridge.sock")
	defer syscall.Umask(syscall.Umask(0))
	done, watched := make(chan struct{}), make(chan int)
	go func() {
		seen := 0
		defer func() { watched <- seen }()
		for {
			select {
			case <-done:
				return
			default:
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				info, err := e.Info()
				switch {
				case err != nil: // it has gone
				case info.Mode() == os.ModeSocket|0o600 && e.Name() == filepath.Base(path):
					seen++
				case info.Mode() != os.ModeDir|0o700:
					t.Errorf("%s was seen with mode %v", e.Name(), info.Mode())
				}
			}
		}
	}()
	for range 300 {
		l, err := socket.Listen(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	t.Logf("seen %d times", <-watched)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSocketOfTheDeadIsReplacedAndThatOfTheLivingIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	listen(t, path)
	if _, err := socket.Listen(path, 0o660); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("two servers on one path: %v", err)
	}
	// A process that is killed leaves its socket behind.
	stale := filepath.Join(t.TempDir(), "stale.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, stale)
	conn, err := net.Dial("unix", stale)
	if err != nil {
		t.Fatalf("the new socket does not answer: %v", err)
	}
	conn.Close()
}

func TestClosedSocketLeavesNoNameUnlessItIsAnothers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawbridge.sock")
	l := listen(t, path)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	l = listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket went with us: %v", err)
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a file":                   func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"a directory":              func(path string) error { return os.Mkdir(path, 0o700) },
		"a pipe":                   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a symlink to nothing":     func(path string) error { return os.Symlink("/nonexistent", path) },
		"a symlink to a file":      func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a symlink to a directory": func(path string) error { return os.Symlink(filepath.Dir(path), path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "drawbridge.sock")
			must(t, put(path))
			before, err := os.Lstat(path)
			must(t, err)
			if _, err := socket.Listen(path, 0o660); err == nil || !strings.Contains(err.Error(), "no socket") || !strings.Contains(err.Error(), path) {
				t.Errorf("it was taken for a socket: %v", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
				t.Errorf("it was %v and is %v, %v", before.Mode(), after.Mode(), err)
			}
			if beside, err := os.ReadDir(filepath.Dir(path)); err != nil || len(beside) != 1 {
				t.Errorf("beside it: %v, %v", beside, err)
			}
		})
	}
}

// TestWhatAKilledProcessLeftIsReplaced even where it died before its socket had its name.
func TestWhatAKilledProcessLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "drawbridge.sock")
	must(t, os.Mkdir(filepath.Join(dir, ".drawbridge.sock.new"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, ".drawbridge.sock.new", "s"), nil, 0o600))
	listen(t, path)
	if beside, err := os.ReadDir(dir); err != nil || len(beside) != 1 {
		t.Errorf("beside the socket: %v, %v", beside, err)
	}
}

func TestPathThatIsTooLongIsNamedWithItsLength(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "s") // that of the test may be too long itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for length, want := range map[int]string{100: "", 101: "101 bytes long, want 100 at most", 200: "200 bytes long"} {
		path := filepath.Join(dir, "s")
		path += strings.Repeat("s", length-len(path))
		l, err := socket.Listen(path, 0o600)
		if err == nil {
			err = l.Close()
		}
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%d bytes: %v, want %q", length, err, want)
		}
	}
}
