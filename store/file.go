package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// schema is the version of what both files hold. It grows when an older program
// would misread them.
const schema = 1

// lockPatience is how long another process may take to let go of a file, e.g. the
// one that is just being replaced by this.
const lockPatience = time.Second

// header is the one record of the bucket of the same name: what a file is.
type header struct {
	Schema int    `json:"schema"`         // e.g. 1
	Boot   string `json:"boot,omitempty"` // what boot.db belongs to; "" in state.db
}

const headerBucket = "header"

// file is one bbolt file. Its records are JSON.
type file struct {
	path string // e.g. /var/lib/drawbridge/state.db
	want header
	tell func(format string, args ...any) // what a person should know

	mu        sync.Mutex // one write at a time, of the file and then of its copy
	db        *bbolt.DB
	os        *os.File // what db has open
	left      stamp    // what the last write left
	spoilt    bool     // db is of no use any more
	discarded bool     // nothing is to come back
	spare     string   // where its copy is, e.g. /run/drawbridge/state.copy
	copy      *file    // nil where none could be made; one has none of its own
}

// lossError says that what a file held cannot be had from it.
type lossError struct {
	path  string
	how   string // e.g. is damaged
	cause error  // nil where there is no more to say
}

func (e *lossError) Error() string {
	text := e.path + " " + e.how
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *lossError) Unwrap() error { return e.cause }

func damaged(path string, cause error) error { return &lossError{path, "is damaged", cause} }

// How a file may be lost but for damage.
const (
	missing = "was missing"
	empty   = "was empty"
)

// openFile opens a file, which then has the header. The error is a lossError if there is
// none, or nothing to be had from it.
func openFile(path string, want header) (*file, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &lossError{path: path, how: missing}
	case err == nil && info.Mode().IsRegular() && info.Size() == 0:
		return nil, &lossError{path: path, how: empty}
	}
	f, err := openDB(path, want.Boot != "")
	if err != nil {
		return nil, err
	}
	if err = f.check(); err == nil {
		err = f.admit(want)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	f.want = want
	return f, nil
}

// beginFile makes a file that holds its header and nothing else, whole or not at all.
func beginFile(path string, want header) error {
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return trouble("begin", path, err)
	}
	volatile := want.Boot != ""
	f, err := openDB(draft, volatile)
	if err != nil {
		return err
	}
	if err := errors.Join(f.begin(want), f.close()); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return trouble("begin", path, err)
	}
	if volatile {
		return nil
	}
	return syncName(path)
}

// openDB opens or makes a file. What is volatile is never synced.
func openDB(path string, volatile bool) (*file, error) {
	f := &file{path: path}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync:       volatile,
		NoGrowSync:   volatile,
		FreelistType: bbolt.FreelistMapType,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			f.os, err = openSound(path, flag, mode)
			return f.os, err
		},
	})
	if err != nil {
		return nil, trouble("open", path, err)
	}
	f.db = db
	return f, nil
}

// openSound opens a file that is ours alone and that bbolt can be trusted with.
func openSound(path string, flag int, mode os.FileMode) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no file (%s): move it away", info.Mode())
	}
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return nil, err
	}
	if err := inspect(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	reserve(f)
	return f, nil
}

// room is what a file takes of its file system at once: what removes something needs a
// few pages first, and a full disk must not keep it from that.
const room = 1 << 20

// reserve takes the room without growing the file. Not every file system can.
func reserve(f *os.File) {
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE in linux/falloc.h
	_ = syscall.Fallocate(int(f.Fd()), keepSize, 0, room)
}

func inspect(f *os.File) error {
	if err := lock(f); err != nil {
		return err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := checkPages(data); err != nil {
		return damaged(f.Name(), err)
	}
	return nil
}

// lock takes the lock that bbolt takes too, on the same open file. Nobody else's
// half-done transaction shall be taken for damage.
func lock(f *os.File) error {
	pause := time.NewTicker(lockPatience / 20)
	defer pause.Stop()
	for deadline := time.Now().Add(lockPatience); ; <-pause.C {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case time.Now().After(deadline):
			return fmt.Errorf("lock %s: another drawbridge is running: %w", f.Name(), err)
		}
	}
}

// check finds what the shape of the pages does not show.
func (f *file) check() error {
	var found []error
	err := f.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			found = append(found, err)
		}
		return nil
	})
	if len(found) > 0 {
		return damaged(f.path, errors.Join(found...))
	}
	return err
}

// admit compares the file's header with the wanted one, and writes that into a file whose
// content belongs to another boot.
func (f *file) admit(want header) error {
	got, err := f.header()
	switch {
	case err != nil:
		return err
	case got == (header{}) || got.Boot != want.Boot:
		return f.begin(want)
	}
	return f.readable(got)
}

// header returns that of the file, none for a new one.
func (f *file) header() (h header, err error) {
	err = f.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(headerBucket))
		if b == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return damaged(f.path, errors.New("it is not drawbridge's"))
			}
			return nil
		}
		var err error
		if h, err = decode[header](b.Get([]byte(headerBucket))); err != nil {
			return damaged(f.path, err)
		}
		return nil
	})
	return h, err
}

// readable reports an error if a newer program wrote the file.
func (f *file) readable(h header) error {
	if h.Schema <= schema {
		return nil
	}
	return fmt.Errorf("open %s: it has version %d, and this drawbridge knows none above %d: "+
		"it is left as it is; use the drawbridge that wrote it, or move it away", f.path, h.Schema, schema)
}

// begin makes the file hold its header and nothing else.
func (f *file) begin(h header) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	err = f.db.Update(func(tx *bbolt.Tx) error {
		for name, _ := tx.Cursor().First(); name != nil; name, _ = tx.Cursor().First() {
			if err := tx.DeleteBucket(bytes.Clone(name)); err != nil {
				return err
			}
		}
		b, err := tx.CreateBucket([]byte(headerBucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(headerBucket), value)
	})
	if err != nil {
		return trouble("begin", f.path, err)
	}
	return nil
}

// syncName makes the names of a new file and of its directory outlive a power cut;
// bbolt syncs only what the file holds.
func syncName(path string) error {
	dir := filepath.Dir(path)
	for _, name := range []string{dir, filepath.Dir(dir)} {
		d, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	return nil
}

// setAside gives a file a name that no other has, with the time in it, and returns that.
func setAside(path string) (string, error) {
	aside := path + time.Now().UTC().Format(".damaged-20060102T150405Z")
	for name, i := aside, 2; ; name, i = fmt.Sprintf("%s-%d", aside, i), i+1 {
		// A link, unlike a rename, never takes the place of what is there.
		switch err := os.Link(path, name); {
		case errors.Is(err, os.ErrExist):
		case err != nil:
			return "", trouble("set aside", path, err)
		default:
			return name, os.Remove(path)
		}
	}
}

// trouble says what cannot be done with a file, and what to do about it.
func trouble(what, path string, err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) && strings.HasPrefix(p.Path, path) {
		err = p.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w: free some on its file system", what, path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s %s: %w: remount it so that it can be written, or name another directory", what, path, err)
	}
	return fmt.Errorf("%s %s: %w", what, path, err)
}

func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.shut()
	if f.copy != nil {
		err = errors.Join(err, f.copy.close())
	}
	return err
}
