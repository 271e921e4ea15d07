package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.etcd.io/bbolt"
)

// A file may be damaged, emptied or deleted while the host runs on, and its containers with
// it; and an engine never tells again what it told once. So each file has a copy beside it,
// which is made anew whenever the file is opened, follows all that is written, and is not
// synced: nobody waits for a disk for it.

// Why a copy is of no use.
var (
	errNoCopy    = errors.New("there is no copy")
	errOtherBoot = errors.New("its copy is of another boot")
)

// follow makes in the copy what was made in the file. A copy that lags behind would be worse
// than none: after a failure there is none until one can be made again.
func (f *file) follow(e edits) {
	if f.discarded {
		return
	}
	if f.copy != nil {
		if f.copy.touched() == "" && f.copy.commit(e) == nil {
			return
		}
		_ = f.dropCopy()
	}
	_ = f.copyAnew() // the next write tries again
}

func (f *file) dropCopy() error {
	var err error
	if f.copy != nil {
		err = f.copy.close()
		f.copy = nil
	}
	if gone := os.Remove(f.spare); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// copyAnew makes the copy.
func (f *file) copyAnew() error {
	err := f.cloneTo(f.spare, false)
	if err == nil {
		f.copy, err = openDB(f.spare, true)
	}
	if err != nil {
		return errors.Join(err, f.dropCopy())
	}
	f.copy.seal()
	return nil
}

// cloneTo writes what the file holds into another, which appears whole or not at all.
func (f *file) cloneTo(path string, durable bool) error {
	draft := path + ".new"
	if err := f.writeTo(draft, durable); err != nil {
		return errors.Join(trouble("write", draft, err), os.Remove(draft))
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("copy %s: %w", f.path, err)
	}
	if durable {
		return syncName(path)
	}
	return nil
}

func (f *file) writeTo(path string, durable bool) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = f.guarded(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(out)
			return err
		})
	})
	if err == nil && durable {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// openCopy opens the copy of a file that is lost.
func openCopy(spare string, want header) (*file, error) {
	if _, err := os.Lstat(spare); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoCopy
	}
	c, err := openDB(spare, true)
	if err != nil {
		return nil, err
	}
	if err = c.check(); err == nil {
		err = c.matches(want)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// garbled finds a record that is none, which the shape of the pages does not show.
func (f *file) garbled() error {
	return f.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(key, record []byte) error {
				if !json.Valid(record) {
					return fmt.Errorf("%s %q is no record", bucket, key)
				}
				return nil
			})
		})
	})
}

// hasBetter reports whether there is a copy in which each record is one.
func hasBetter(path string, want header) bool {
	c, err := openCopy(copyOf(path), want)
	if err != nil {
		return false
	}
	defer c.close() //nolint:errcheck // nothing was written
	return c.garbled() == nil
}

func (f *file) matches(want header) error {
	got, err := f.header()
	switch {
	case err != nil:
		return err
	case got == (header{}):
		return errNoCopy
	case got.Boot != want.Boot:
		return errOtherBoot
	}
	return f.readable(got)
}

func (f *file) discard() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discarded = true
	return errors.Join(f.dropCopy(), os.Remove(f.path))
}
