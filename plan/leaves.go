package plan

import (
	"errors"
	"slices"
)

// Leaves takes apart what errors.Join put together, also where it was given more
// text around it, as far as there are objects to tell from each other.
func Leaves(err error) []error {
	var inner []error
	switch e := err.(type) { //nolint:errorlint // it is the tree of errors itself that is walked
	case nil:
		return nil
	case *ObjectError:
		return []error{err}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			inner = append(inner, Leaves(one)...)
		}
	case interface{ Unwrap() error }:
		inner = Leaves(e.Unwrap())
	}
	isObject := func(err error) bool {
		o := (*ObjectError)(nil)
		return errors.As(err, &o)
	}
	if len(inner) > 1 && slices.ContainsFunc(inner, isObject) {
		return inner
	}
	return []error{err}
}
