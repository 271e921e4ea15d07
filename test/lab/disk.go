package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk makes a file system in memory of a size such as 200k, and returns where it is found
// by this process and those that it starts. Nobody else sees it.
func Disk(t testing.TB, size string) string {
	t.Helper()
	return disk(t, size, 0)
}

// ReadOnlyDisk is an empty one that nobody can write to.
func ReadOnlyDisk(t testing.TB) string {
	t.Helper()
	return disk(t, "64k", unix.MOUNT_ATTR_RDONLY)
}

func disk(t testing.TB, size string, flags int) string {
	t.Helper()
	var fd int
	var err error
	onOwnThread(func() {
		// Who may not mount for the machine may for itself.
		if err = unix.Unshare(unix.CLONE_NEWNS); err == nil {
			fd, err = mountTmpfs(size, flags)
		}
	})
	if err != nil {
		t.Fatalf("make a disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
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

// Fill leaves no room on the disk that a directory is on, until free is called.
func Fill(t testing.TB, dir string) (free func()) {
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
