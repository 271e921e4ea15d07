package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/drawbridge-net/drawbridge/failpoint"
)

// edits are changes of one file, made in their order. Records are JSON.
type edits struct {
	list []edit
	err  error // the first record that is none
}

type edit struct {
	bucket, key string
	value       []byte // nil: the key goes
	under       bool   // or all keys that begin with it
}

func (e *edits) put(bucket, key string, record any) {
	value, err := json.Marshal(record)
	if err != nil {
		e.err = errors.Join(e.err, err)
	}
	e.list = append(e.list, edit{bucket: bucket, key: key, value: value})
}

func (e *edits) delete(bucket, key string) {
	e.list = append(e.list, edit{bucket: bucket, key: key})
}

func (e *edits) deleteUnder(bucket, prefix string) {
	e.list = append(e.list, edit{bucket: bucket, key: prefix, under: true})
}

// write makes all edits in one transaction, or after an error none.
func (f *file) write(e edits) error {
	if e.err != nil {
		return e.err
	}
	if len(e.list) == 0 {
		return nil // an empty transaction would be synced too
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := failpoint.Step(f.path, "write"); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := f.keep(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := f.commit(e); err != nil {
		return err
	}
	f.follow(e)
	return nil
}

func (f *file) commit(e edits) error {
	err := f.guarded(func() error { return f.db.Update(e.make) })
	f.seal()
	if err != nil {
		return trouble("write", f.path, err)
	}
	return nil
}

// make makes them all.
func (e edits) make(tx *bbolt.Tx) error {
	for _, one := range e.list {
		b, err := tx.CreateBucketIfNotExists([]byte(one.bucket))
		if err != nil {
			return err
		}
		if err := one.apply(b); err != nil {
			return err
		}
	}
	return nil
}

func (e edit) apply(b *bbolt.Bucket) error {
	key := []byte(e.key)
	switch {
	case e.value != nil:
		return b.Put(key, e.value)
	case !e.under:
		return b.Delete(key)
	}
	// A cursor does not survive a deletion: find all, then delete.
	var found [][]byte
	c := b.Cursor()
	for k, _ := c.Seek(key); k != nil && bytes.HasPrefix(k, key); k, _ = c.Next() {
		found = append(found, bytes.Clone(k))
	}
	for _, k := range found {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// each shows every record of a bucket. The value is valid only during do.
func (f *file) each(bucket string, do func(key string, value []byte)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.keep()
	if err == nil {
		err = f.guarded(func() error {
			return f.db.View(func(tx *bbolt.Tx) error { return show(tx.Bucket([]byte(bucket)), do) })
		})
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.path, err)
	}
	return nil
}

// show is each of a bucket that may not be there.
func show(b *bbolt.Bucket, do func(key string, value []byte)) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		do(string(k), v)
		return nil
	})
}

func decode[T any](value []byte) (T, error) {
	var record T
	err := json.Unmarshal(value, &record)
	return record, err
}
