// Package tree holds immutable ordered maps: a change makes a new map that shares
// everything it did not touch with the old one, and the difference of two maps
// costs what differs, not what they hold.
//
// It knows nothing of networks, and is not meant for more than a few million keys.
package tree

import (
	"hash/maphash"
	"iter"
)

// Key is what orders a Map: Compare answers below, at or above zero as the
// receiver stands before, at or behind other.
type Key[K any] interface {
	comparable
	Compare(other K) int
}

// Map is an immutable map in the order of its keys; the zero Map is empty. V's
// zero value stands for "not there" in Diff, so it should not be stored.
//
// It is a treap whose priorities are hashes of the keys. Hence its shape depends
// on its keys alone and not on the history, which is what makes Diff cheap.
// Get, With and Without take time logarithmic in Len.
type Map[K Key[K], V comparable] struct {
	root *node[K, V]
}

type node[K Key[K], V comparable] struct {
	key         K
	value       V
	priority    uint64
	size        int
	left, right *node[K, V]
}

// seed is set once: two maps of one process must agree on the hashes of keys.
var seed = maphash.MakeSeed() //nolint:gochecknoglobals // set once, never changed

// Len is the number of keys.
func (m Map[K, V]) Len() int { return m.root.len() }

func (n *node[K, V]) len() int {
	if n == nil {
		return 0
	}
	return n.size
}

// Get finds the value of a key.
func (m Map[K, V]) Get(key K) (V, bool) {
	for n := m.root; n != nil; {
		switch c := key.Compare(n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.value, true
		}
	}
	var none V
	return none, false
}

// With is the map in which key has the value.
func (m Map[K, V]) With(key K, value V) Map[K, V] {
	if old, ok := m.Get(key); ok && old == value {
		return m
	}
	left, _, right := split(m.root, key)
	alone := join(&node[K, V]{key: key, value: value, priority: maphash.Comparable(seed, key)}, nil, nil)
	return Map[K, V]{merge(merge(left, alone), right)}
}

// Without is the map that lacks key.
func (m Map[K, V]) Without(key K) Map[K, V] {
	left, mid, right := split(m.root, key)
	if mid == nil {
		return m
	}
	return Map[K, V]{merge(left, right)}
}

// As is the map in which key is as in another: with the same value, or missing.
func (m Map[K, V]) As(other Map[K, V], key K) Map[K, V] {
	if value, ok := other.Get(key); ok {
		return m.With(key, value)
	}
	return m.Without(key)
}

// All yields every key in ascending order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.each(yield) }
}

// From yields every key that is not below first, in ascending order.
func (m Map[K, V]) From(first K) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.from(first, yield) }
}

func (n *node[K, V]) each(yield func(K, V) bool) bool {
	return n == nil || n.left.each(yield) && yield(n.key, n.value) && n.right.each(yield)
}

func (n *node[K, V]) from(first K, yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	if n.key.Compare(first) < 0 {
		return n.right.from(first, yield)
	}
	return n.left.from(first, yield) && yield(n.key, n.value) && n.right.each(yield)
}

// Change is one key whose value differs between two maps. Old is V's zero value
// where the key was added, New where it went.
type Change[K Key[K], V comparable] struct {
	Key      K
	Old, New V
}

// Diff yields what differs between two maps, in the order of the keys.
func Diff[K Key[K], V comparable](before, after Map[K, V]) iter.Seq[Change[K, V]] {
	return func(yield func(Change[K, V]) bool) { diff(before.root, after.root, yield) }
}

func diff[K Key[K], V comparable](a, b *node[K, V], yield func(Change[K, V]) bool) bool {
	switch {
	case a == b:
		return true
	case a == nil:
		return b.each(func(k K, v V) bool { return yield(Change[K, V]{Key: k, New: v}) })
	case b == nil:
		return a.each(func(k K, v V) bool { return yield(Change[K, V]{Key: k, Old: v}) })
	}
	// Whichever root stands higher cuts the other tree in two at its own key.
	top := a
	if above(b, a) {
		top = b
	}
	aLeft, aMid, aRight := split(a, top.key)
	bLeft, bMid, bRight := split(b, top.key)
	if !diff(aLeft, bLeft, yield) {
		return false
	}
	change := Change[K, V]{Key: top.key}
	if aMid != nil {
		change.Old = aMid.value
	}
	if bMid != nil {
		change.New = bMid.value
	}
	if change.Old != change.New && !yield(change) {
		return false
	}
	return diff(aRight, bRight, yield)
}

// above reports whether a belongs nearer to the root than b. Equal hashes of
// different keys are told apart by the keys.
func above[K Key[K], V comparable](a, b *node[K, V]) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.key.Compare(b.key) < 0
}

// join is n with other subtrees; it is n itself where nothing changes, so that
// untouched subtrees stay shared.
func join[K Key[K], V comparable](n, left, right *node[K, V]) *node[K, V] {
	if n.size > 0 && n.left == left && n.right == right {
		return n
	}
	copied := *n
	copied.left, copied.right = left, right
	copied.size = left.len() + 1 + right.len()
	return &copied
}

// split parts a tree into what stands before key, key itself, and what stands behind it.
func split[K Key[K], V comparable](n *node[K, V], key K) (left, mid, right *node[K, V]) {
	if n == nil {
		return nil, nil, nil
	}
	switch c := key.Compare(n.key); {
	case c < 0:
		left, mid, right = split(n.left, key)
		return left, mid, join(n, right, n.right)
	case c > 0:
		left, mid, right = split(n.right, key)
		return join(n, n.left, left), mid, right
	default:
		return n.left, n, n.right
	}
}

// merge makes one tree of two, all of whose left keys stand before all right ones.
func merge[K Key[K], V comparable](left, right *node[K, V]) *node[K, V] {
	switch {
	case left == nil:
		return right
	case right == nil:
		return left
	case above(left, right):
		return join(left, left.left, merge(left.right, right))
	default:
		return join(right, merge(left, right.left), right.right)
	}
}
