package spec

// parity is what docs/options.md tells of one thing that Docker's own bridge does:
// what that is, and how it fares here.
type parity struct {
	does    string // e.g. the largest packet, in bytes
	verdict string // same, ours or no
	// proof names the test that shows it, the key that does it here, or why nothing
	// does. The names of tests become links, and must be those of tests.
	proof string
}

// same does here what it does there.
func same(does, test string) parity { return parity{does, "same", test} }

// ours goes by another key here.
func ours(does, key string) parity { return parity{does, "ours", key} }

// no is not done here.
func no(does, why string) parity { return parity{does, "no", why} }
