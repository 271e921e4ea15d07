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

// Ports reads the port map of a ProgramExternalConnectivity request, ranges joined.
func (o Options) Ports() ([]Port, error) {
	onlyIPv4 := false
	if err := errors.Join(o.checkExposed(), o.bool(keyOnlyIPv4, &onlyIPv4)); err != nil {
		return nil, err
	}
	var bindings []binding
	if err := o.list(keyPortMap, &bindings); err != nil {
		return nil, err
	}
	if len(bindings) > maxPorts {
		return nil, fmt.Errorf("option %s: %w: %d port bindings, at most %d make sense", keyPortMap, ErrInvalid, len(bindings), maxPorts)
	}
	ports := make([]Port, 0, len(bindings))
	for _, b := range bindings {
		p, err := b.port()
		if err != nil {
			return nil, fmt.Errorf("publish %s: %w: %w", b, ErrInvalid, err)
		}
		if onlyIPv4 {
			if p.Host.Is6() {
				continue // the other endpoint's
			}
			if !p.Host.IsValid() {
				p.Host = netip.IPv4Unspecified()
			}
		}
		ports = append(ports, p)
	}
	return JoinPorts(ports)
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
	case number == sctp:
		return "sctp"
	case number < 0 || number > 255:
		return fmt.Sprintf("protocol %d", number)
	}
	return Proto(number).String()
}

// sctp is a protocol that Docker's bridge can publish.
const sctp = 132

func (b binding) port() (Port, error) {
	switch {
	case b.Proto == sctp:
		return Port{}, fmt.Errorf("SCTP is not built yet, TCP and UDP are")
	case b.Proto != int64(TCP) && b.Proto != int64(UDP):
		return Port{}, fmt.Errorf("protocol %d has no ports; want 6 for TCP or 17 for UDP", b.Proto)
	case b.Port < 1 || b.Port > 65535:
		return Port{}, fmt.Errorf("container port %d: want 1 to 65535", b.Port)
	case b.HostPort < 0 || b.HostPort > 65535:
		return Port{}, fmt.Errorf("host port %d: want 1 to 65535", b.HostPort)
	case b.HostPort == 0:
		return Port{}, fmt.Errorf("a host port of the driver's choice is not built yet; name one, e.g. -p 8080:%d", b.Port)
	case b.HostPortEnd != 0 && b.HostPortEnd != b.HostPort:
		return Port{}, fmt.Errorf("one host port of a range is not built yet; name one, e.g. -p %d:%d", b.HostPort, b.Port)
	}
	host, err := b.host()
	if err != nil {
		return Port{}, err
	}
	return Port{Proto: Proto(b.Proto), Host: host, HostPort: uint16(b.HostPort), ContainerPort: uint16(b.Port), Count: 1}, nil
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
	case host.IsMulticast():
		return netip.Addr{}, fmt.Errorf("host address %s: a multicast address has no ports", host)
	case host.Unmap() == netip.IPv6Loopback():
		return netip.Addr{}, fmt.Errorf("publishing on ::1 is not built yet; 127.0.0.1 is")
	}
	return host.Unmap(), nil
}
