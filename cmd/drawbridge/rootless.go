package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// errRootless is why we do not serve a rootless engine.
var errRootless = errors.New("a rootless Docker cannot be served: its network is a namespace of its own into which rootlesskit forwards ports for Docker's drivers only, so nobody would reach those that Drawbridge publishes; run Docker and Drawbridge as root")

// checkRootless reports an error if we are in the namespaces of a rootless engine.
func checkRootless() error {
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return fmt.Errorf("look for a rootless engine: %w", err)
	}
	if isRootless(string(uidMap)) {
		return errRootless
	}
	return nil
}

// isRootless tells the user namespace of a rootless engine by its map
// (user_namespaces(7)): root is one ordinary user, and the other IDs are that user's
// subordinate ones, without which no engine can keep an image. The initial namespace
// maps all IDs to themselves, an unprivileged system container a range of them, and
// unshare -r knows no others than root; in all of these a host's network can be.
func isRootless(uidMap string) bool {
	user, subordinates := false, false
	for line := range strings.Lines(uidMap) {
		var inside, outside, count uint32
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return false
		}
		switch inside {
		case 0:
			user = outside != 0 && count == 1
		default:
			subordinates = true
		}
	}
	return user && subordinates
}
