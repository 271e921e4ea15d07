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
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
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
}

// Open opens state.db in dir and boot.db in runDir, and makes what is missing.
// bootID names this boot of the host, and whatever else the content of boot.db
// must not outlive; the content that belongs to another is thrown away.
//
// A damaged file is set aside and a new one begun, which Notices tells. A file of
// a newer version or one that another process has open is an error.
func Open(dir, runDir, bootID string) (*Store, error) {
	if bootID == "" {
		return nil, fmt.Errorf("open %s: the boot has no name", filepath.Join(runDir, bootFile))
	}
	for _, d := range []string{dir, runDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
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

// open opens one file, setting a damaged one aside first. Where boot.db is on a disk, as
// in a managed plugin, a power cut may well damage it, and what it held is nobody's any
// more: nothing is said of that, and nothing is kept.
func (s *Store) open(path string, want header) (*file, error) {
	info, err := os.Stat(path)
	outlived := err == nil && want.Boot != "" && beforeBoot(info.ModTime())
	if err == nil && info.Size() == 0 && !outlived {
		s.notice("%s was empty: what it held is forgotten", path)
	}
	f, err := openFile(path, want)
	damage := (*damagedError)(nil)
	switch {
	case !errors.As(err, &damage):
		return f, err
	case outlived:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove what is left of another boot: %w", err)
		}
	default:
		aside, asideErr := setAside(path)
		if asideErr != nil {
			return nil, errors.Join(err, asideErr)
		}
		s.notice("%s: it is kept as %s, and what it held is forgotten", damage, aside)
	}
	return openFile(path, want)
}

// beforeBoot reports whether a time is before that of this boot, as far as the clock
// can be trusted.
func beforeBoot(t time.Time) bool {
	var info syscall.Sysinfo_t
	return syscall.Sysinfo(&info) == nil && time.Since(t) > time.Duration(info.Uptime)*time.Second
}

// Close closes both files. What was saved stays.
func (s *Store) Close() error { return errors.Join(s.state.close(), s.boot.close()) }

// Discard takes both files off the disk. What is open goes on until Close.
func (s *Store) Discard() error {
	return errors.Join(os.Remove(s.state.path), os.Remove(s.boot.path))
}

// Notices are sentences for the operator about what was found damaged or was left
// out so far. They grow by what the views load.
func (s *Store) Notices() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

func (s *Store) notice(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices = append(s.notices, fmt.Sprintf(format, args...))
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
