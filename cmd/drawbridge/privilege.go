package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var errPrivilege = errors.New("CAP_NET_ADMIN is missing, without which no network can be made: run drawbridge as root, " +
	"and let what starts it not take that away (CapabilityBoundingSet of its unit, --cap-add NET_ADMIN of a container)")

// checkPrivilege reports an error if this process may not change the host's network. Left
// to itself, such a daemon would find fault with the kernel, now with nf_tables, now with
// iptables.
func checkPrivilege() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // of 32 capabilities each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if sets[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errPrivilege
	}
	return nil
}
