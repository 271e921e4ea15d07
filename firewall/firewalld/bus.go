package firewalld

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drawbridge-net/drawbridge/failpoint"
)

// What firewalld calls itself on the bus, see firewalld.dbus(5).
const (
	busName = "org.fedoraproject.FirewallD1"
	path    = "/org/fedoraproject/FirewallD1"
)

// bus is one connection to the system bus. A conversation with firewalld opens one and
// closes it: that takes less than one of firewalld's answers, and there is nothing to
// be kept in step with a bus that may have been started anew.
type bus struct {
	socket net.Conn
	conn   *dbus.Conn
}

// errAway says that there is no bus.
var errAway = errors.New("no system bus")

// dial opens one that ends when patience does. A deadline of the socket also ends what
// no context could: writing to a bus that does not read.
func dial(ctx context.Context, path string, patience time.Duration) (*bus, error) {
	socket, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errAway
	}
	if err != nil {
		return nil, fmt.Errorf("system bus: %w", err)
	}
	end := time.Now().Add(patience)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(end) {
		end = earlier
	}
	b := &bus{socket: socket}
	if err := errors.Join(socket.SetDeadline(end), b.greet()); err != nil {
		socket.Close()
		return nil, fmt.Errorf("system bus: %w", err)
	}
	return b, nil
}

func (b *bus) greet() (err error) {
	if b.conn, err = dbus.NewConn(b.socket); err != nil {
		return err
	}
	if err = b.conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return err
	}
	return b.conn.Hello()
}

func (b *bus) close() { b.conn.Close() }

func (b *bus) firewalld() dbus.BusObject { return b.conn.Object(busName, path) }

// call asks firewalld for something, e.g. zone.getZones. If it does not run, that does
// not start it.
func (b *bus) call(method string, answer any, args ...any) error {
	if err := failpoint.Step("firewalld", method); err != nil {
		return err
	}
	err := b.firewalld().Call(busName+"."+method, dbus.FlagNoAutoStart, args...).Store(answer)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (b *bus) look() (*sight, error) {
	s := &sight{bound: map[string]string{}}
	if err := b.call("zone.getZones", &s.zones); err != nil {
		return nil, err
	}
	err := b.call("policy.getPolicies", &s.policies)
	if err != nil && errorName(err) != "org.freedesktop.DBus.Error.UnknownMethod" {
		return nil, err
	}
	var active map[string]map[string][]string
	if err := b.call("zone.getActiveZones", &active); err != nil {
		return nil, err
	}
	for zone, has := range active {
		for _, name := range has["interfaces"] {
			s.bound[name] = zone
		}
	}
	return s, nil
}

// bind binds an interface until the next reload. If somebody was faster, it is theirs,
// which the next look finds.
func (b *bus) bind(zone, name string) error {
	var bound string
	return but(b.call("zone.addInterface", &bound, zone, name), "ZONE_ALREADY_SET", "ZONE_CONFLICT")
}

// unbind undoes bind. If somebody was faster, there is nothing left to undo.
func (b *bus) unbind(zone, name string) error {
	var unbound string
	return but(b.call("zone.removeInterface", &unbound, zone, name), "UNKNOWN_INTERFACE", "NOT_ENABLED", "ZONE_CONFLICT", "INVALID_ZONE")
}

// but is an error unless it is a refusal of firewalld's with one of these codes. It
// writes them before a colon.
func but(err error, codes ...string) error {
	if refusal := (dbus.Error{}); errors.As(err, &refusal) && refusal.Name == busName+".Exception" {
		code, _, _ := strings.Cut(refusal.Error(), ":")
		if slices.Contains(codes, code) {
			return nil
		}
	}
	return err
}

func errorName(err error) string {
	answer := dbus.Error{}
	errors.As(err, &answer)
	return answer.Name
}

// isAway reports whether an error says that there is no firewalld, or none any more.
func isAway(err error) bool {
	switch errorName(err) {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.NoReply":
		return true
	}
	return errors.Is(err, errAway)
}
