package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
)

// While we have a file open, somebody may write to it, cut it short or delete it. What bbolt
// has mapped changes under its hands then: it would write on from garbage, or be killed by the
// kernel for reading what is not there any more. So a file is looked at whenever
// it is used, and has to be as the last write left it.

// stamp is what a file was like. Two are compared and never put in an order, so no clock has
// to be right. Kernels before 6.13 give all writes within a few milliseconds the same time: of
// somebody else's so soon after ours only another size is seen.
type stamp struct {
	dev, inode uint64
	size       int64
	written    syscall.Timespec
}

func stampOf(info fs.FileInfo, err error) (stamp, error) {
	if err != nil {
		return stamp{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{dev: uint64(st.Dev), inode: st.Ino, size: st.Size, written: st.Mtim}, nil //nolint:unconvert // not everywhere
}

// seal remembers what the file is like that we have open, after a write of ours. Its name
// may be another file's by then.
func (f *file) seal() {
	if now, err := stampOf(f.os.Stat()); err == nil {
		f.left = now
	}
}

// touched tells what somebody has done to the file or to its name since it was sealed, ""
// for nothing.
func (f *file) touched() string {
	now, err := stampOf(os.Lstat(f.path))
	switch {
	case f.spoilt:
		return "is damaged"
	case errors.Is(err, fs.ErrNotExist):
		return "was removed while it was in use"
	case err != nil || now.dev != f.left.dev || now.inode != f.left.inode:
		return "was replaced while it was in use"
	case now.size < f.left.size:
		return "was cut short while it was in use"
	case now != f.left:
		return "was written to by somebody else while it was in use"
	}
	return ""
}

// whole reports whether what we have open holds all that it should, though perhaps under
// another name or none.
func (f *file) whole() bool {
	now, err := stampOf(f.os.Stat())
	return !f.spoilt && err == nil && now == f.left
}

// keep has the file as it was left, before it is used: where it is not, its copy takes
// its place.
func (f *file) keep() error {
	how := f.touched()
	if how == "" || f.discarded {
		return nil
	}
	loss := &lossError{path: f.path, how: how}
	source := f.copy
	switch {
	case source != nil && source.touched() == "":
	case f.whole():
		source = f
	default:
		return fmt.Errorf("%w, and so was its copy: what runs goes on, and nothing can be saved until drawbridge is started anew", loss)
	}
	f.spoilt = !f.whole() // also under the name that it has from here on
	story := loss.Error()
	if _, err := os.Lstat(f.path); err == nil {
		aside, err := setAside(f.path)
		if err != nil {
			return errors.Join(loss, err)
		}
		story += fmt.Sprintf("; %s is kept as %s", f.path, aside)
	}
	if err := source.cloneTo(f.path, f.want.Boot == ""); err != nil {
		return errors.Join(loss, err)
	}
	anew, err := openFile(f.path, f.want)
	if err != nil {
		return err
	}
	_ = f.shut() // nobody will miss it
	f.db, f.os, f.spoilt = anew.db, anew.os, false
	f.seal()
	f.tell("%s; what it held is back from its copy", story)
	return nil
}

// guarded is do, save that pages which are spoilt or cut off meanwhile are an error. Nothing
// can be done with the database then but to shut it.
func (f *file) guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			f.spoilt = true
			err = damaged(f.path, fmt.Errorf("%v", cause))
		}
	}()
	return do()
}

// shut closes the database. A spoilt one is left mapped, since its locks may be held, and
// nobody has them any more.
func (f *file) shut() error {
	if f.spoilt {
		return f.os.Close()
	}
	return f.db.Close()
}
