// Package store remembers what must not be forgotten, in two files: state.db for
// what must outlive a power cut, and boot.db for what must outlive a kill of this
// process and of the engine, and dies with the boot.
//
// It decides nothing: the rules are spec's and ipam's, and what breaks them when
// it is read again is left out and reported. It does not look at the kernel.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// The names of the two files.
const (
	stateFile = "state.db"
	bootFile  = "boot.db"
)

// Store is both files. Networks, Pools, Settings and Zones are its views, each for one
// of those who have something to remember. All of it may be used concurrently.
type Store struct {
	state *file // synced before a Save returns
	boot  *file // not synced: the page cache outlives us, and nothing in it outlives the host's

	mu      sync.Mutex
	notices []string
	listen  func(notice string) // nil: nobody does
	anew    bool                // a file was not there or was damaged
}

// Open opens state.db in dir and boot.db in runDir, and makes what is missing.
// bootID names this boot of the host, and whatever else the content of boot.db
// must not outlive; the content that belongs to another is thrown away.
//
// A damaged file is set aside, and its copy takes its place or a new one is begun, which
// Notices tells. A file of a newer version or one that another process has open is an
// error, and so is what is no file.
func Open(dir, runDir, bootID string) (*Store, error) {
	if bootID == "" {
		return nil, fmt.Errorf("open %s: the boot has no name", filepath.Join(runDir, bootFile))
	}
	for _, d := range []string{dir, runDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, trouble("make directory", d, err)
		}
	}
	s := &Store{}
	var err error
	if s.state, err = s.open(filepath.Join(dir, stateFile), header{Schema: schema}); err != nil {
		return nil, err
	}
	if s.boot, err = s.open(filepath.Join(runDir, bootFile), header{Schema: schema, Boot: bootID}); err != nil {
		return nil, errors.Join(err, s.state.close())
	}
	return s, nil
}

// open opens one file, and makes its copy.
func (s *Store) open(path string, want header) (*file, error) {
	f, err := openFile(path, want)
	if err == nil {
		if cause := f.garbled(); cause != nil && hasBetter(path, want) {
			err = errors.Join(damaged(path, cause), f.close())
		}
	}
	if loss := (*lossError)(nil); errors.As(err, &loss) {
		s.anew = true
		if err := s.recover(loss, want); err != nil {
			return nil, err
		}
		f, err = openFile(path, want)
	}
	if err != nil {
		return nil, err
	}
	f.spare, f.tell = copyOf(path), s.notice
	if err := f.copyAnew(); err != nil {
		s.notice("%v: there is no copy, should %s be damaged", err, path)
	}
	f.seal()
	return f, nil
}

func copyOf(path string) string { return strings.TrimSuffix(path, ".db") + ".copy" }

// recover puts the copy in the place of a file that is lost, or begins another. Where
// boot.db is on a disk, as in a managed plugin, a power cut may well damage it. The copy then
// shows that what it held is nobody's any more: nothing is said of that, and nothing is kept.
func (s *Store) recover(loss *lossError, want header) error {
	spare := copyOf(loss.path)
	copied, err := openCopy(spare, want)
	if copied != nil {
		defer copied.close() //nolint:errcheck // nothing was written
	}
	spoilt := (*lossError)(nil)
	switch {
	case errors.Is(err, errOtherBoot):
		if err := os.Remove(loss.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return trouble("remove", loss.path, err)
		}
		return beginFile(loss.path, want)
	case err != nil && !errors.Is(err, errNoCopy) && !errors.As(err, &spoilt):
		return err
	}
	story := []string{loss.Error()}
	for _, damage := range []*lossError{loss, spoilt} {
		if damage == nil || damage.how == missing || damage.how == empty {
			continue
		}
		aside, err := setAside(damage.path)
		if err != nil {
			return errors.Join(damage, err)
		}
		story = append(story, fmt.Sprintf("%s is kept as %s", damage.path, aside))
	}
	switch {
	case copied != nil:
		s.notice("%s; what it held is back from its copy", strings.Join(story, "; "))
		return copied.cloneTo(loss.path, want.Boot == "")
	case loss.how != missing || spoilt != nil:
		s.notice("%s; what it held is forgotten: %s", strings.Join(story, "; "), remedy(want))
	}
	return beginFile(loss.path, want)
}

// remedy is what to do about a file whose content is forgotten: no engine tells again what it
// told once.
func remedy(want header) string {
	if want.Boot != "" {
		return "containers that run stay connected; restart them to publish their ports again"
	}
	return "remove the networks of Drawbridge's that docker network ls shows, and create them anew"
}

// Anew reports whether a file was not there or was damaged when it was opened: the kernel
// may show more than is remembered, or is back from a copy.
func (s *Store) Anew() bool { return s.anew }

// Close closes both files. What was saved stays.
func (s *Store) Close() error { return errors.Join(s.state.close(), s.boot.close()) }

// Discard takes both files and their copies off the disk. What is open goes on until Close.
func (s *Store) Discard() error {
	return errors.Join(s.state.discard(), s.boot.discard())
}

// Notices are sentences for the operator about what was found damaged or was left
// out so far. They grow by what the views load, and by what a save meets.
func (s *Store) Notices() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

func (s *Store) notice(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	notice := fmt.Sprintf(format, args...)
	s.notices = append(s.notices, notice)
	if s.listen != nil {
		s.listen(notice)
	}
}

// Listen has somebody hear of each notice from now on.
func (s *Store) Listen(hear func(notice string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listen = hear
}

// errHalf says that state.db was written and boot.db was not.
var errHalf = errors.New("only half is saved")

// save writes the edits of both files, the synced ones first.
func (s *Store) save(durable, volatile edits) error {
	if volatile.err != nil {
		return volatile.err
	}
	if err := s.state.write(durable); err != nil {
		return err
	}
	err := s.boot.write(volatile)
	if err != nil && len(durable.list) > 0 {
		return fmt.Errorf("%w: %w", errHalf, err)
	}
	return err
}

// load reads the records of one bucket, noting and leaving out what is none.
func load[T any](s *Store, f *file, bucket string) ([]T, error) {
	var all []T
	err := f.each(bucket, func(key string, value []byte) {
		record, err := decode[T](value)
		if err != nil {
			s.notice("%s: %s %q is left out: %v", f.path, bucket, key, err)
			return
		}
		all = append(all, record)
	})
	return all, err
}
