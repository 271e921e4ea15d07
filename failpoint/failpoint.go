// Package failpoint lets a test stop the daemon between any two of its steps. A step is
// whatever changes something outside the process: a write to the kernel, a commit to a file,
// an answer. Where nothing outside changes in between, two moments are the same to whoever
// looks after a crash, so there are no more.
//
// It is empty in the product: only a program that was built with the tag failpoints obeys
// anybody. That one reads orders from a file and writes down the steps that it took.
package failpoint

// Env is the environment variable that names a directory with the two files below. Without
// it, or without the tag, Step does nothing.
const Env = "DRAWBRIDGE_FAILPOINTS"

// OrderFile holds one order, e.g.
//
//	kill 17 .
//	hold 1 ^link dbr3f2a
//	fail 0 ^nftables: own
//
// A verb, the number of the step that it is for, and a regular expression of the steps that
// count; 0 is each of them. The steps' names are an object, a colon and what is about to
// happen to it. They are counted from the moment that the order was written; to write one
// anew, replace the file. Kill is SIGKILL, hold waits until the file has another order or is
// gone, fail makes the step an error, and note only writes it down.
const OrderFile = "order"

// StepsFile gets a line for each step that counted, in the order in which they were reached,
// before the order is carried out: its number and its name.
const StepsFile = "steps"
