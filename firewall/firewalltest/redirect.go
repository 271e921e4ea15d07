package firewalltest

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// noRedirects has a container send to a peer by way of the gateway: what goes back to
// where it came from.
func noRedirects(t *testing.T, b Backend) {
	c := newTown(t, b)
	c.a2.Run("ip", "route", "add", "172.30.0.2/32", "via", "172.30.0.1")
	c.a2.Run("ip", "route", "add", "fd00:30::2/128", "via", "fd00:30::1")
	seen := newTap(t, c.a2)
	for address, sees := range map[string]string{"172.30.0.2:80": "172.30.0.3", "[fd00:30::2]:80": "fd00:30::3"} {
		c.dropped("no redirects to containers", func() { c.Reach(c.a2, "tcp", address, "a1", sees) })
	}
	// Of what is translated the kernel itself says nothing.
	c.Bridged("0") // else it would not be routed
	for address, sees := range map[string]string{"192.0.2.1:8080": "172.30.0.1", "[2001:db8:1::1]:8080": "fd00:30::1"} {
		c.Reach(c.a2, "tcp", address, "a1", sees)
	}
	if arrived := seen.arrived(); len(arrived) == 0 || slices.ContainsFunc(arrived, isRedirect) {
		t.Errorf("want answers and no redirect, got %x", arrived)
	}
	for address, gateway := range map[string]string{"172.30.0.2": "172.30.0.1", "fd00:30::2": "fd00:30::1"} {
		if route := c.a2.Run("ip", "route", "get", address); !strings.Contains(route, "via "+gateway+" ") || strings.Contains(route, "redirect") {
			t.Errorf("the way to %s has become %s", address, route)
		}
	}
}

// isRedirect knows the packets of types 5 (RFC 792) and 137 (RFC 4861).
func isRedirect(p []byte) bool {
	if p[0]>>4 == 6 {
		return p[6] == unix.IPPROTO_ICMPV6 && p[40] == 137
	}
	return p[9] == unix.IPPROTO_ICMP && p[20] == 5
}
