package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
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
	// Open are the container's own, in families whose gateway mode is Routed.
	Open []Port
	// OnlyIPv4 says that another endpoint is the container's gateway for IPv6.
	OnlyIPv4 bool
	// Refused says why Ports are not all that was asked for: nothing may be published
	// then, but what is Open needs no port of the host.
	Refused error
}

// IPv6 is what of the published ports concerns IPv6.
func (m PortMap) IPv6() []Port { return ofFamily(m.Ports, false) }

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
	if err := b.checkTranslation(host); err != nil {
		m.Refused = errors.Join(m.Refused, fmt.Errorf("publish %s: %w: %w", b, ErrInvalid, err))
		return nil
	}
	m.Ports = append(m.Ports, b.on(host, b.HostPort))
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
		return fmt.Errorf("option %s: %w: want a list of ports, %.80s is a %.80s", key, ErrInvalid, wrong.Field, wrong.Value)
	case err != nil:
		return fmt.Errorf("option %s=%s: %w: want a list of ports", key, excerpt(raw), ErrInvalid)
	}
	return nil
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
	}
	return b.host()
}

// checkTranslation refuses what only the host's side of a translation can not be.
func (b binding) checkTranslation(host netip.Addr) error {
	switch {
	case b.HostPort == 0:
		return fmt.Errorf("a host port of the driver's choice is not built yet; name one, e.g. -p 8080:%d", b.Port)
	case b.HostPortEnd != 0 && b.HostPortEnd != b.HostPort:
		return fmt.Errorf("one host port of a range is not built yet; name one, e.g. -p %d:%d", b.HostPort, b.Port)
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
	case err != nil || host.Zone() != "":
		return netip.Addr{}, fmt.Errorf("host address %.60q: want an IPv4 or IPv6 address without a zone", b.HostIP)
	case host.IsMulticast() || isBroadcast(host):
		return netip.Addr{}, fmt.Errorf("host address %s: a multicast or broadcast address has no ports", host)
	}
	return host.Unmap(), nil
}
