package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// disk makes a file system in memory that nobody has mounted, and returns where it is for
// this process. It may be one that cannot be written.
func disk(t *testing.T, size string, flags int) string {
	t.Helper()
	var fd int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: who may not mount for the machine may for itself
		if err = unix.Unshare(unix.CLONE_NEWNS); err == nil {
			fd, err = mountTmpfs(size, flags)
		}
	}()
	<-done
	if err != nil {
		t.Fatalf("make a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func mountTmpfs(size string, flags int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs)); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, flags)
}

// fill leaves no byte on the disk.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKernelFullDiskIsNamedAndLosesNothing in either directory, and at any save.
func TestKernelFullDiskIsNamedAndLosesNothing(t *testing.T) {
	for file, path := range files() {
		for _, size := range []string{"192k", "400k"} {
			t.Run(file+" "+size, func(t *testing.T) {
				h := newHome(t)
				if file == "state.db" {
					h.dir = filepath.Join(disk(t, size, 0), "var", "lib")
				} else {
					h.run = filepath.Join(disk(t, size, 0), "run")
				}
				s := h.open(t)
				save(t, s, spec.State{}, sample(t))
				state := loaded(t, s)
				free := fill(t, filepath.Dir(path(h)))
				var full error
				for n := 2; full == nil; n++ {
					if n > 250 {
						t.Fatal("the disk never fills up")
					}
					next := state
					err := next.AddNetwork(network(n))
					if file == "boot.db" {
						next = state
						ep := member(1, n)
						ep.Sandbox = strings.Repeat("/x", 1000)
						err = next.AddEndpoint(networkID(1), ep)
					}
					if err != nil {
						t.Fatal(err)
					}
					if full = s.Networks().Save(state, next); full == nil {
						state = next
					}
				}
				if want := "write " + path(h) + ": no space left on device: free some on its file system"; full.Error() != want {
					t.Errorf("error %v, want %s", full, want)
				}
				wantState(t, s, state)
				closed(t, s)
				s = h.open(t) // what cannot be copied is told, and no more
				wantState(t, s, state)
				free()
				next := state
				if err := next.AddNetwork(network(201)); err != nil {
					t.Fatal(err)
				}
				save(t, s, state, next)
				closed(t, s)
				s = h.open(t)
				wantState(t, s, next)
				noNotices(t, s)
			})
		}
	}
}

// TestKernelFullDiskKeepsNothingFromBeingRemoved where there was room at the start.
func TestKernelFullDiskKeepsNothingFromBeingRemoved(t *testing.T) {
	h := newHome(t)
	h.dir, h.run = filepath.Join(disk(t, "4m", 0), "var", "lib"), filepath.Join(disk(t, "4m", 0), "run")
	s := h.open(t)
	state := saveMany(t, s)
	fill(t, h.dir)
	fill(t, h.run)
	for id, n := range state.Networks.All() {
		for ep := range n.Endpoints.All() {
			next := state
			next.RemoveEndpoint(id, ep)
			save(t, s, state, next)
			state = next
		}
		next := state
		next.RemoveNetwork(id)
		save(t, s, state, next)
		state = next
	}
	wantState(t, s, spec.State{})
	closed(t, s)
	wantState(t, h.open(t), spec.State{})
}

func TestKernelDiskThatIsFullOrReadOnlyAtTheStartIsNamed(t *testing.T) {
	full := disk(t, "64k", 0)
	fill(t, full)
	for dir, want := range map[string]string{
		full:                                   "no space left on device: free some on its file system",
		disk(t, "64k", unix.MOUNT_ATTR_RDONLY): "read-only file system: remount it so that it can be written, or name another directory",
	} {
		for file, path := range files() {
			h := newHome(t)
			if file == "state.db" {
				h.dir = dir
			} else {
				h.run = dir
			}
			_, err := h.tryOpen()
			if err == nil || !strings.HasSuffix(err.Error(), want) || !strings.Contains(err.Error(), path(h)) {
				t.Errorf("%s: error %v, want one that names %s and %s", file, err, path(h), want)
			}
		}
	}
}
