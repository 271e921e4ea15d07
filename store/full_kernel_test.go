package store_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelFullDiskIsNamedAndLosesNothing in either directory, and at any save.
func TestKernelFullDiskIsNamedAndLosesNothing(t *testing.T) {
	for file, path := range files() {
		for _, size := range []string{"192k", "400k"} {
			t.Run(file+" "+size, func(t *testing.T) {
				h := newHome(t)
				if file == "state.db" {
					h.dir = filepath.Join(lab.Disk(t, size), "var", "lib")
				} else {
					h.run = filepath.Join(lab.Disk(t, size), "run")
				}
				s := h.open(t)
				save(t, s, spec.State{}, sample(t))
				state := loaded(t, s)
				free := lab.Fill(t, filepath.Dir(path(h)))
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
	h.dir, h.run = filepath.Join(lab.Disk(t, "4m"), "var", "lib"), filepath.Join(lab.Disk(t, "4m"), "run")
	s := h.open(t)
	state := saveMany(t, s)
	lab.Fill(t, h.dir)
	lab.Fill(t, h.run)
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
	full := lab.Disk(t, "64k")
	lab.Fill(t, full)
	for dir, want := range map[string]string{
		full:                "no space left on device: free some on its file system",
		lab.ReadOnlyDisk(t): "read-only file system: remount it so that it can be written, or name another directory",
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

// TestKernelDiskInUseIsNotMadeReadOnly since the kernel refuses that; what was made so
// between two daemons is named by the second, and nothing is lost.
func TestKernelDiskInUseIsNotMadeReadOnly(t *testing.T) {
	for file := range files() {
		t.Run(file, func(t *testing.T) {
			disk := lab.Disk(t, "4m")
			h := newHome(t)
			if file == "state.db" {
				h.dir = filepath.Join(disk, "lib")
			} else {
				h.run = filepath.Join(disk, "run")
			}
			s := h.open(t)
			save(t, s, spec.State{}, sample(t))
			readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(unix.AT_FDCWD, disk, 0, readOnly); !errors.Is(err, unix.EBUSY) {
				t.Errorf("it is in use: %v, want %v", err, unix.EBUSY)
			}
			state := saveBoth(t, s, sample(t))
			closed(t, s)
			if err := unix.MountSetattr(unix.AT_FDCWD, disk, 0, readOnly); err != nil {
				t.Fatal(err)
			}
			if _, err := h.tryOpen(); err == nil || !strings.Contains(err.Error(), "read-only file system: remount it") {
				t.Errorf("on a disk that is read-only: %v", err)
			}
			if err := unix.MountSetattr(unix.AT_FDCWD, disk, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
				t.Fatal(err)
			}
			wantState(t, h.open(t), state)
		})
	}
}
