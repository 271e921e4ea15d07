package firewalld

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// fake is a system bus with a firewalld on it that behaves as the real one does, and can
// be told to hang, to refuse and to die.
type fake struct {
	t      *testing.T
	socket string

	mu       sync.Mutex
	away     bool
	slow     time.Duration // each answer
	hung     chan struct{} // closed when it answers again; nil if it does
	dies     string        // at which method, without an answer
	refusals map[string]string
	faster   map[string]func() // what somebody does just before one of our calls
	zones    []string
	policies []string // nil for one that has never heard of policies
	bound    map[string]string
	calls    []string
	conns    []net.Conn
	started  int
}

// newFake opens a bus, on which firewalld has the zone drawbridge.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{
		t: t, socket: filepath.Join(t.TempDir(), "bus"), refusals: map[string]string{}, faster: map[string]func(){},
		zones: []string{"public", builtIn, ownZone, "work"}, policies: []string{ownPolicy}, bound: map[string]string{},
	}
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.started++
			f.mu.Unlock()
			all.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		f.answer()
		listener.Close()
		f.mu.Lock()
		for _, c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		all.Wait()
	})
	return f
}

// hang has firewalld answer nothing, until answer is called.
func (f *fake) hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung = make(chan struct{})
}

func (f *fake) answer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hung != nil {
		close(f.hung)
		f.hung = nil
	}
}

// change changes what firewalld has, behind our back.
func (f *fake) change(how func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how(f)
}

// now is what is bound, e.g. "br0 drawbridge".
func (f *fake) now() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(f.bound)) {
		all = append(all, name+" "+f.bound[name])
	}
	return all
}

// asked are the calls since the last time, without those that only look.
func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.DeleteFunc(f.calls, func(call string) bool { return strings.Contains(call, "get") })
	f.calls = nil
	return all
}

// connections is how many there were so far.
func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

// signal tells everybody on the bus.
func (f *fake) signal(sender, path, name string, body ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dot := strings.LastIndex(name, ".")
	m := message(dbus.TypeSignal, body)
	m.Headers[dbus.FieldSender] = dbus.MakeVariant(sender)
	m.Headers[dbus.FieldPath] = dbus.MakeVariant(dbus.ObjectPath(path))
	m.Headers[dbus.FieldInterface] = dbus.MakeVariant(name[:dot])
	m.Headers[dbus.FieldMember] = dbus.MakeVariant(name[dot+1:])
	for _, c := range f.conns {
		_ = m.EncodeTo(c, binary.LittleEndian) // some have gone
	}
}

func message(kind dbus.Type, body []any) *dbus.Message {
	m := &dbus.Message{Type: kind, Headers: map[dbus.HeaderField]dbus.Variant{}, Body: body}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	return m
}

// serve speaks the protocol of the bus with one client.
func (f *fake) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	if _, err := in.ReadByte(); err != nil {
		return
	}
	for greeted := false; !greeted; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case line == "AUTH\r\n":
			fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		case word == "AUTH":
			fmt.Fprint(c, "DATA\r\n")
		case word == "DATA":
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case word == "BEGIN":
			greeted = true
		}
	}
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		answer := f.reply(call)
		f.mu.Lock()
		err = answer.EncodeTo(c, binary.LittleEndian)
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (f *fake) reply(call *dbus.Message) *dbus.Message {
	word := func(field dbus.HeaderField) string {
		text, _ := call.Headers[field].Value().(string)
		return text
	}
	method := strings.TrimPrefix(word(dbus.FieldInterface)+"."+word(dbus.FieldMember), busName+".")
	var body []any
	name := ""
	switch {
	case word(dbus.FieldDestination) == busName:
		body, name = f.firewalld(method, call.Body)
	case word(dbus.FieldMember) == "Hello":
		body = []any{":1.1"}
	}
	kind := dbus.TypeMethodReply
	if name != "" {
		kind = dbus.TypeError
	}
	m := message(kind, body)
	m.Headers[dbus.FieldReplySerial] = dbus.MakeVariant(call.Serial())
	if name != "" {
		m.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name)
	}
	return m
}

// firewalld answers one call, or has the bus say that it cannot: then with the name of
// an error.
func (f *fake) firewalld(method string, args []any) (body []any, errorName string) {
	f.mu.Lock()
	hung, slow := f.hung, time.After(f.slow)
	f.mu.Unlock()
	if hung != nil {
		<-hung
	}
	<-slow
	f.mu.Lock()
	defer f.mu.Unlock()
	const busError = "org.freedesktop.DBus.Error."
	if f.away {
		return []any{"The name is not activatable"}, busError + "ServiceUnknown"
	}
	f.calls = append(f.calls, strings.TrimSpace(fmt.Sprintln(append([]any{method}, args...)...)))
	if f.dies == method {
		f.away, f.bound = true, map[string]string{}
		return []any{"Message recipient disconnected from message bus without replying"}, busError + "NoReply"
	}
	if do := f.faster[method]; do != nil {
		do()
	}
	if text := f.refusals[method]; text != "" {
		return []any{text}, busName + ".Exception"
	}
	switch method {
	case "getDefaultZone":
		return []any{"public"}, ""
	case "zone.getZones":
		return []any{f.zones}, ""
	case "policy.getPolicies":
		if f.policies == nil {
			return []any{"no such method"}, busError + "UnknownMethod"
		}
		return []any{f.policies}, ""
	case "zone.getActiveZones":
		active := map[string]map[string][]string{}
		for name, zone := range f.bound {
			active[zone] = map[string][]string{"interfaces": append(active[zone]["interfaces"], name), "sources": {"192.0.2.0/24"}}
		}
		return []any{active}, ""
	}
	zone, name := args[0].(string), args[1].(string)
	switch at := f.bound[name]; {
	case method == "zone.addInterface" && at == zone:
		return []any{fmt.Sprintf("ZONE_ALREADY_SET: '%s' already bound to '%s'", name, zone)}, busName + ".Exception"
	case method == "zone.addInterface" && at != "":
		return []any{fmt.Sprintf("ZONE_CONFLICT: '%s' already bound to '%s'", name, at)}, busName + ".Exception"
	case method == "zone.addInterface":
		f.bound[name] = zone
	case at != "" && at != zone:
		return []any{fmt.Sprintf("ZONE_CONFLICT: remove_interface(%s, %s): zoi='%s'", zone, name, at)}, busName + ".Exception"
	case at == "":
		return []any{fmt.Sprintf("UNKNOWN_INTERFACE: '%s' is not in any zone", name)}, busName + ".Exception"
	default:
		delete(f.bound, name)
	}
	return []any{zone}, ""
}

// memory holds the notes of a test.
type memory map[string]string

func (m memory) Bound() (map[string]string, error) { return maps.Clone(m), nil }

func (m memory) Remember(bridge, zone string) error {
	m[bridge] = zone
	return nil
}

func (m memory) Forget(bridge string) error {
	delete(m, bridge)
	return nil
}
