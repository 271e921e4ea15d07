package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	db   *bbolt.DB
}

// damagedError says that a file can be read but makes no sense.
type damagedError struct {
	path  string
	cause error
}

func (e *damagedError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.path, e.cause) }
func (e *damagedError) Unwrap() error { return e.cause }

// openFile opens or makes a file that has, or gets, the header.
func openFile(path string, want header) (*file, error) {
	_, statErr := os.Stat(path)
	volatile := want.Boot != ""
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync:       volatile,
		NoGrowSync:   volatile,
		FreelistType: bbolt.FreelistMapType,
		OpenFile:     openSound,
	})
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	f := &file{path, db}
	if err = f.check(); err == nil {
		err = f.admit(want)
	}
	if err == nil && statErr != nil && !volatile {
		err = f.syncName()
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// openSound opens a file that is ours alone and that bbolt can be trusted with.
func openSound(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if err := inspect(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
		return &damagedError{f.Name(), err}
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
		return &damagedError{f.path, errors.Join(found...)}
	}
	return err
}

// admit compares the file's header with the wanted one, and writes that into a
// new file and into one whose content belongs to another boot.
func (f *file) admit(want header) error {
	fresh := false
	err := f.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(headerBucket))
		if b == nil {
			name, _ := tx.Cursor().First()
			fresh = name == nil
			if !fresh {
				return &damagedError{f.path, errors.New("it is not drawbridge's")}
			}
			return nil
		}
		got, err := decode[header](b.Get([]byte(headerBucket)))
		if err != nil {
			return &damagedError{f.path, err}
		}
		fresh = got.Boot != want.Boot
		if !fresh && got.Schema > schema {
			return fmt.Errorf("open %s: it has version %d, and this drawbridge knows none above %d; it is left as it is", f.path, got.Schema, schema)
		}
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	return f.begin(want)
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
		return fmt.Errorf("begin %s: %w", f.path, err)
	}
	return nil
}

// syncName makes the names of a new file and of its directory outlive a power cut;
// bbolt syncs only what the file holds.
func (f *file) syncName() error {
	dir := filepath.Dir(f.path)
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

// setAside gives a file a name that no other has, and returns that.
func setAside(path string) (string, error) {
	for i := 1; ; i++ {
		aside := fmt.Sprintf("%s.damaged-%d", path, i)
		// A link, unlike a rename, never takes the place of what is there.
		switch err := os.Link(path, aside); {
		case errors.Is(err, os.ErrExist):
		case err != nil:
			return "", fmt.Errorf("set aside: %w", err)
		default:
			return aside, os.Remove(path)
		}
	}
}

func (f *file) close() error { return f.db.Close() }
