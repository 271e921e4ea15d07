package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// maxPorts bounds one container's port map: more than every port of both
// protocols on one address would be a mistake or an attack.
const maxPorts = 2 * 65536

// binding is one entry of Docker's port map (PortBinding in
// daemon/libnetwork/types of github.com/moby/moby). Numbers are read wide, so
// that one out of range is refused by name and not as bad JSON.
type binding struct {
	Proto       int64
	IP          string
	Port        int64
	HostIP      string
	HostPort    int64
	HostPortEnd int64
}

// PortMap is what a port map asks of an endpoint.
type PortMap struct {
	// Ports are published on the host, ranges joined.
	Ports []Port
	// Wishes are published besides, by numbers that are to be chosen.
	Wishes []Wish
	// Open are the container's own, in families whose gateway mode is Routed.
	Open []Port
	// OnlyIPv4 says that another endpoint is the container's gateway for IPv6.
	OnlyIPv4 bool
	// Refused says why Ports are not all that was asked for: nothing may be published
	// then, but what is Open needs no port of the host.
	Refused error
}

// IPv6 is what of the port map concerns IPv6.
func (m PortMap) IPv6() PortMap {
	m.Ports = ofFamily(m.Ports, false)
	m.Wishes = narrowed(m.Wishes, func(ports []Port) []Port { return ofFamily(ports, false) })
	return m
}

// Published are all ports that are asked for; those whose number is to be chosen have the
// first of their range, or 0.
func (m PortMap) Published() []Port {
	all := slices.Clone(m.Ports)
	for _, w := range m.Wishes {
		w.HostPort = w.Range.First
		all = append(all, w.Port)
	}
	return all
}

// PortMap reads the port map of a Join or ProgramExternalConnectivity request for an
// endpoint of a network.
func (o Options) PortMap(n *Network) (m PortMap, err error) {
	if err := errors.Join(o.checkExposed(), o.bool(keyOnlyIPv4, &m.OnlyIPv4)); err != nil {
		return m, err
	}
	var bindings []binding
	if err := o.list(keyPortMap, &bindings); err != nil {
		return m, err
	}
	if len(bindings) > maxPorts {
		return m, fmt.Errorf("option %s: %w: %d port bindings, at most %d make sense", keyPortMap, ErrInvalid, len(bindings), maxPorts)
	}
	for _, b := range bindings {
		if err := m.add(b, n); err != nil {
			return m, fmt.Errorf("publish %s: %w: %w", b, ErrInvalid, err)
		}
	}
	var overlap error
	m.Ports, overlap = JoinPorts(m.Ports)
	m.Refused = errors.Join(m.Refused, overlap)
	m.Open, err = JoinPorts(m.Open)
	return m, err
}

// Publishes reports whether there is anything in a port map, sound or not.
func (o Options) Publishes() bool {
	var bindings []json.RawMessage
	return o.list(keyPortMap, &bindings) != nil || len(bindings) > 0
}

// add enters what one binding asks for: in a family that is routed the container's
// own port, whatever the host's; else the host's.
func (m *PortMap) add(b binding, n *Network) error {
	host, err := b.check()
	if err != nil {
		return err
	}
	if !host.IsValid() {
		host = n.HostBinding
	}
	var translated []netip.Addr
	for _, every := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		switch {
		case host.IsValid() && host.Is4() != every.Is4():
		case n.Mode(every) == Routed:
			m.Open = append(m.Open, b.on(every, b.Port))
		default:
			translated = append(translated, every)
		}
	}
	switch {
	case len(translated) == 0, !host.IsValid() && len(translated) == 1 && !n.has(translated[0]):
		return nil
	case !host.IsValid() && len(translated) == 1:
		host = translated[0]
	}
	if m.OnlyIPv4 && host.Is6() {
		return nil
	}
	if err := checkBound(host); err != nil {
		if m.Refused == nil { // of thousands, the first says it all
			m.Refused = fmt.Errorf("publish %s: %w: %w", b, ErrInvalid, err)
		}
		return nil
	}
	switch {
	case b.HostPort == 0:
		m.Wishes = append(m.Wishes, Wish{Port: b.on(host, 0)})
	case b.HostPortEnd > b.HostPort:
		m.Wishes = append(m.Wishes, Wish{b.on(host, 0), PortRange{uint16(b.HostPort), uint16(b.HostPortEnd)}})
	default:
		m.Ports = append(m.Ports, b.on(host, b.HostPort))
	}
	return nil
}

func (b binding) on(host netip.Addr, port int64) Port {
	return Port{Proto: Proto(b.Proto), Host: host, HostPort: uint16(port), ContainerPort: uint16(b.Port), Count: 1}
}

// checkExposed type-checks what needs nothing done.
func (o Options) checkExposed() error {
	var exposed []struct{ Proto, Port int64 }
	return o.list(keyExposed, &exposed)
}

func (o Options) list(key string, to any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	err := json.Unmarshal(raw, to)
	wrong := (*json.UnmarshalTypeError)(nil)
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Errorf("option %s: %w: want a list of ports, and %.80s is no %s in %s", key, ErrInvalid, wrong.Field, wanted(wrong.Type), firstWrong(raw, wrong.Offset))
	case err != nil:
		return fmt.Errorf("option %s=%s: %w: want a list of ports", key, excerpt(raw), ErrInvalid)
	}
	return nil
}

// wanted is what a field of a port is.
func wanted(field reflect.Type) string {
	if field.Kind() == reflect.String {
		return "string"
	}
	return "whole number"
}

// firstWrong is the beginning of that element of a list in which an offset lies.
func firstWrong(list json.RawMessage, offset int64) string {
	elements := json.NewDecoder(bytes.NewReader(list))
	_, err := elements.Token() // the bracket
	for err == nil && elements.More() {
		var element json.RawMessage
		if err = elements.Decode(&element); elements.InputOffset() >= offset {
			return excerpt(element)
		}
	}
	return excerpt(list)
}

// String is what a person gave to docker run -p, as far as it is known.
func (b binding) String() string {
	host := ""
	if b.HostIP != "" {
		host = b.HostIP + ":"
		if strings.Contains(b.HostIP, ":") {
			host = "[" + b.HostIP + "]:"
		}
	}
	switch {
	case b.HostPortEnd != b.HostPort && b.HostPortEnd != 0:
		host += fmt.Sprintf("%d-%d:", b.HostPort, b.HostPortEnd)
	case b.HostPort != 0:
		host += fmt.Sprintf("%d:", b.HostPort)
	case host != "":
		host += ":"
	}
	return fmt.Sprintf("%.80s%d/%s", host, b.Port, protoName(b.Proto))
}

func protoName(number int64) string {
	switch {
	case number < 0 || number > 255:
		return fmt.Sprintf("protocol %d", number)
	}
	return Proto(number).String()
}

// check refuses what no gateway mode can publish, and reads the host's address.
func (b binding) check() (netip.Addr, error) {
	switch {
	case b.Proto != int64(TCP) && b.Proto != int64(UDP) && b.Proto != int64(SCTP):
		return netip.Addr{}, fmt.Errorf("protocol %d has no ports; want 6 for TCP, 17 for UDP or 132 for SCTP", b.Proto)
	case b.Port < 1 || b.Port > 65535:
		return netip.Addr{}, fmt.Errorf("container port %d: want 1 to 65535", b.Port)
	case b.HostPort < 0 || b.HostPort > 65535:
		return netip.Addr{}, fmt.Errorf("host port %d: want 1 to 65535", b.HostPort)
	case b.HostPortEnd != 0 && (b.HostPortEnd < b.HostPort || b.HostPortEnd > 65535 || b.HostPort == 0):
		return netip.Addr{}, fmt.Errorf("host ports %d-%d: want a range within 1 to 65535", b.HostPort, b.HostPortEnd)
	}
	return b.host()
}

// checkBound refuses what nothing can be published on.
func checkBound(host netip.Addr) error {
	if host.Is6() && host.IsLinkLocalUnicast() {
		return fmt.Errorf("host address %s: every interface may have a link-local address, so it says too little; publish on every address, e.g. -p 8080:80 or -p [::]:8080:80, which link-local clients reach, too", host)
	}
	return nil
}

func (b binding) host() (netip.Addr, error) {
	if b.IP != "" {
		return netip.Addr{}, fmt.Errorf("container address %.60q: the container's own is used; leave it empty", b.IP)
	}
	if b.HostIP == "" {
		return netip.Addr{}, nil
	}
	host, err := netip.ParseAddr(b.HostIP)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("host address %.60q: want an IPv4 or IPv6 address", b.HostIP)
	case host.Zone() != "":
		return netip.Addr{}, errors.Join(checkBound(host.WithZone("")), fmt.Errorf("host address %.60q: want it without a zone", b.HostIP))
	case host.Is4In6():
		return netip.Addr{}, fmt.Errorf("host address %s: want it as IPv4, %s", host, host.Unmap())
	case host.IsMulticast() || isBroadcast(host):
		return netip.Addr{}, fmt.Errorf("host address %s: a multicast or broadcast address has no ports", host)
	}
	return host, nil
}
