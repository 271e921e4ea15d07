package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// What the values of options may be. Each of these reads a text and says what it
// wants in place of a wrong one.

func parseBool(text string) (any, error) {
	v, err := strconv.ParseBool(text)
	if err != nil {
		return nil, errors.New("want true or false")
	}
	return v, nil
}

// parseMTU accepts what a bridge of the kernel does (ETH_MIN_MTU and ETH_MAX_MTU
// in linux/if_ether.h); Docker's 0 means the default.
func parseMTU(text string) (any, error) {
	v, err := strconv.Atoi(text)
	if err != nil || v != 0 && (v < 68 || v > 65535) {
		return nil, errors.New("want 68 to 65535 bytes, or 0 for the default")
	}
	return v, nil
}

// parsePrefix leaves room for a number of three digits in an interface name. Docker's
// "" is the default.
func parsePrefix(text string) (any, error) {
	if text == "" {
		return defaultPrefix, nil
	}
	return text, checkName(text, 12)
}

// parseBridgeName knows "" as Docker does: a name is made.
func parseBridgeName(text string) (any, error) {
	switch {
	case text == "":
		return "", nil
	case reserved.MatchString(text):
		return nil, errReserved
	}
	return text, checkHostLink(text)
}

// reserved are names that no link can have without being taken for something
// else: the loopback, and two directories beside those of interfaces in /proc/sys/net.
var reserved = regexp.MustCompile(`^(all|default|lo)$`)

var errReserved = errors.New("want another name than all, default and lo, which mean something else to the kernel")

// hostLink leaves out what has a meaning in rules: iptables reads br+ and nft br* as
// every name that begins so.
var hostLink = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}$`)

func checkHostLink(text string) error {
	if !hostLink.MatchString(text) {
		return errors.New("want an interface name of 1 to 15 letters, digits and . _ - @")
	}
	return nil
}

func parseInterfaceName(text string) (any, error) {
	if reserved.MatchString(text) {
		return nil, errReserved
	}
	return text, checkName(text, 15)
}

// checkName is the kernel's rule for interface names (dev_valid_name in
// net/core/dev.c) made a little stricter: printable ASCII only.
func checkName(text string, most int) error {
	bad := func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' }
	if text == "" || len(text) > most || text == "." || text == ".." || strings.ContainsFunc(text, bad) {
		return fmt.Errorf("want an interface name of 1 to %d characters without / : %% and blanks", most)
	}
	return nil
}

// maxTrusted bounds the trusted interfaces of one network.
const maxTrusted = 64

// parseInterfaces reads names as Docker writes them, with colons between.
func parseInterfaces(text string) (any, error) {
	names := strings.FieldsFunc(text, func(r rune) bool { return r == ':' })
	if len(names) > maxTrusted {
		return nil, fmt.Errorf("%d interfaces, at most %d make sense", len(names), maxTrusted)
	}
	for _, name := range names {
		if err := checkHostLink(name); err != nil {
			return nil, fmt.Errorf("%w, with colons between several", err)
		}
	}
	return names, nil
}

func parseIPv4(text string) (any, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Unmap().Is4() || addr.Zone() != "" || !canSend(addr) {
		return nil, errors.New("want an IPv4 address of this host, e.g. 192.0.2.7")
	}
	return addr.Unmap(), nil
}

func parseIPv6(text string) (any, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Unmap().Is4() || addr.Zone() != "" || !canSend(addr) {
		return nil, errors.New("want an IPv6 address of this host, e.g. 2001:db8::7")
	}
	return addr, nil
}

// canSend reports whether what others are sent from the address can be answered.
func canSend(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsGlobalUnicast() || addr.Is4() && addr.IsLinkLocalUnicast()
}

// parseBinding reads the default address of published ports. In spite of the key's
// name it may be one of IPv6. Docker's 0.0.0.0, the default, is every address of both
// families, and :: every address of IPv6.
func parseBinding(text string) (any, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.Zone() != "" || addr.IsMulticast() || isBroadcast(addr):
		return nil, errors.New("want an address of this host, e.g. 192.0.2.7")
	case addr == netip.IPv4Unspecified():
		return netip.Addr{}, nil
	}
	return addr.Unmap(), checkBound(addr)
}

func isBroadcast(addr netip.Addr) bool {
	return addr.Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func parseNotDefault(text string) (any, error) {
	v, err := parseBool(text)
	if err == nil && v == true {
		return nil, errors.New("docker0 belongs to the engine; want false")
	}
	return v, err
}
