package firewalld

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// Watch calls wake, until ctx ends, when our bridges may have lost their zones:
// firewalld was started, stopped or reloaded, somebody unbound one, or firewalld
// answers that did not.
func (z *Zones) Watch(ctx context.Context, wake func()) error {
	for {
		z.listen(ctx, wake)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(z.pause):
		}
	}
}

// listen watches over one connection for as long as that lasts.
func (z *Zones) listen(ctx context.Context, wake func()) {
	b, err := dial(ctx, z.socket, z.patience)
	if err != nil {
		return
	}
	defer b.close()
	signals := make(chan *dbus.Signal, 16)
	b.conn.Signal(signals)
	if b.subscribe() != nil {
		return
	}
	answers := make(chan *dbus.Call, 1)
	if z.silent.Load() {
		b.ping(answers)
	}
	wake() // for what happened before we listened
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-signals:
			if !ok {
				return
			}
			if !z.concerns(s) {
				continue
			}
		case <-z.owed:
			b.ping(answers)
			continue
		case <-answers:
		}
		z.silent.Store(false)
		wake()
	}
}

// subscribe asks for the signals that tell of firewalld, and then lets the connection be
// silent for as long as it likes.
func (b *bus) subscribe() error {
	from := dbus.WithMatchSender(busName)
	for _, match := range [][]dbus.MatchOption{
		{from, dbus.WithMatchInterface(busName), dbus.WithMatchMember("Reloaded")},
		{from, dbus.WithMatchInterface(busName + ".zone"), dbus.WithMatchMember("InterfaceRemoved")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := b.conn.AddMatchSignal(match...); err != nil {
			return err
		}
	}
	return b.socket.SetDeadline(time.Time{})
}

// ping asks for an answer, whenever that may come.
func (b *bus) ping(answers chan *dbus.Call) {
	b.firewalld().Go(busName+".getDefaultZone", dbus.FlagNoAutoStart, answers)
}

// concerns reports whether a signal may be about a bridge that has to be in a zone.
// What we unbind is planned no more.
func (z *Zones) concerns(s *dbus.Signal) bool {
	if s.Name != busName+".zone.InterfaceRemoved" {
		return s.Name == busName+".Reloaded" || s.Name == "org.freedesktop.DBus.NameOwnerChanged"
	}
	all := z.planned.Load()
	if all == nil || len(s.Body) < 2 {
		return false
	}
	name, _ := s.Body[1].(string)
	_, ours := (*all)[name]
	return ours
}
