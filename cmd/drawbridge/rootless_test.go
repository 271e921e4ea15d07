package main

import "testing"

func TestRootlessEngineIsToldByTheMapOfItsUsers(t *testing.T) {
	for name, row := range map[string]struct {
		uidMap string
		want   bool
	}{
		"the initial namespace":             {"         0          0 4294967295\n", false},
		"a rootless engine":                 {"         0       1000          1\n         1     100000      65536\n", true},
		"a rootless engine with two ranges": {"         1     100000      65536\n         0       1000          1\n     65537     300000       1000\n", true},
		"an unprivileged system container":  {"         0     100000      65536\n", false},
		"unshare -r by a user":              {"         0       1000          1\n", false},
		"unshare -r by root":                {"         0          0          1\n", false},
		"nothing":                           {"", false},
	} {
		if got := isRootless(row.uidMap); got != row.want {
			t.Errorf("%s: %t, want %t", name, got, row.want)
		}
	}
}
