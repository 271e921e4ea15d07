package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// street is a host with the firewall and this layer, in their order, and three
// containers: a and b on one network, c on another.
type street struct {
	*machine
	town     *scene.Town
	wall     wall
	firewall applier
	before   spec.State
	members  map[string]*lab.Host
}

func newStreet(t *testing.T) *street {
	t.Helper()
	return newStreetBehind(t, withNftables())
}

func newStreetBehind(t *testing.T, w wall) *street {
	t.Helper()
	s := &street{wall: w, members: map[string]*lab.Host{}}
	facts := plan.Host{IPv6: true, ForceForwarding: true, Uplinks: []plan.HostLink{{Name: "eth0"}}, Addresses: []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.101"), netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::101"),
	}}
	world := scene.NewWorld(t).
		Network("d", spec.Network{Masquerade: true}, "172.30.1.0/24", "fd00:30:1::/64").
		Network("e", spec.Network{Masquerade: true}, "172.30.2.0/24", "fd00:30:2::/64").
		Endpoint("d", "a", "172.30.1.2/24", "fd00:30:1::2/64").
		Endpoint("d", "b", "172.30.1.3/24", "fd00:30:1::3/64").
		Endpoint("e", "c", "172.30.2.2/24", "fd00:30:2::2/64")
	bare := plan.New(world.State, &facts)
	s.town = scene.Settle(t, bare, func(h *lab.Host) {
		s.firewall = w.build(t, h)
		s.machine = &machine{Host: h, Table: newTable(t, h), t: t, state: world.State, facts: facts}
		s.apply()
	})
	s.Run("ip", "addr", "add", "192.0.2.101/24", "dev", "eth0")
	s.Run("ip", "addr", "add", "2001:db8:1::101/64", "dev", "eth0", "nodad")
	// Whoever asks where nobody is shall be told each time.
	s.Set("net/ipv4/icmp_ratemask", "0")
	s.Set("net/ipv6/icmp/ratelimit", "0")
	for n, addresses := range map[string][]string{
		"a": {"172.30.1.2/24", "fd00:30:1::2/64"}, "b": {"172.30.1.3/24", "fd00:30:1::3/64"}, "c": {"172.30.2.2/24", "fd00:30:2::2/64"},
	} {
		bridge := scene.Bridge("d")
		if n == "c" {
			bridge = scene.Bridge("e")
		}
		s.members[n] = s.town.Container(n, bridge, addresses...)
		s.do(func(state *spec.State) error { return state.Join(s.network(n), scene.ID(n), "/run/docker/netns/"+n) })
	}
	return s
}

func (s *street) network(container string) spec.ID {
	if container == "c" {
		return scene.ID("e")
	}
	return scene.ID("d")
}

// do changes what was asked for, and the host, as a request does.
func (s *street) do(changes ...func(*spec.State) error) {
	s.t.Helper()
	for _, change := range changes {
		s.must(change(&s.state))
	}
	s.apply()
}

func (s *street) apply() {
	s.t.Helper()
	want := plan.New(s.state, &s.facts)
	if s.have != nil {
		want = s.have.Next(s.before, s.state, &s.facts)
	}
	for _, l := range []applier{s.firewall, s.Table} {
		var err error
		s.Do(func() { err = l.Apply(context.Background(), s.have, want) })
		s.must(err)
	}
	s.have, s.before = want, s.state
}

// publish is the change that a container publishes these ports, and no others.
func (s *street) publish(container string, ports ...spec.Port) func(*spec.State) error {
	return func(state *spec.State) error {
		return state.Publish(s.network(container), scene.ID(container), ports, false)
	}
}

// entries are those that ask for a port of a protocol, each with the number that tells it
// from later ones.
func (s *street) entries(proto spec.Proto, port uint16) map[string]bool {
	s.t.Helper()
	found := map[string]bool{}
	s.must(s.dump(unix.AF_UNSPEC, nil, func(e entry) {
		if e.proto == proto && e.asked.Port() == port {
			found[fmt.Sprintf("%s asks %s, %s answers %t, %x", e.client, e.asked, e.server, e.answered, e.id)] = true
		}
	}))
	return found
}

// someEntry is an error while there is none.
func (s *street) someEntry(proto spec.Proto, port uint16) error {
	if len(s.entries(proto, port)) == 0 {
		return errors.New("there is no entry")
	}
	return nil
}

// deaf holds a TCP port of the host as one is held that nobody serves: whoever asks is
// heard by nobody, and asks again.
func (s *street) deaf(address string) {
	s.t.Helper()
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	var l net.Listener
	var err error
	s.Do(func() {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) {
				program := &unix.SockFprog{Len: 1, Filter: &nothing[0]}
				err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
			}), err)
		}}
		l, err = config.Listen(context.Background(), "tcp", address)
	})
	s.must(err)
	s.t.Cleanup(func() { l.Close() })
}

// sender keeps its socket, and hence all that the kernel remembers of it.
type sender struct {
	t    testing.TB
	name string
	conn net.Conn
}

func (s *street) sender(from *lab.Host, address string) *sender {
	s.t.Helper()
	x := &sender{t: s.t, name: address}
	var err error
	from.Do(func() { x.conn, err = net.Dial("udp", address) })
	s.must(err)
	s.t.Cleanup(func() { x.conn.Close() })
	return x
}

// during sends all the while that something happens, some fifty times a second.
func during(send, happens func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for {
			send()
			select {
			case <-end:
				return
			case <-pace.C:
			}
		}
	}()
	defer func() {
		close(end)
		<-ended
	}()
	happens()
}

// send sends one packet. A refusal of the one before would otherwise be told in its place.
func (x *sender) send() (told error) {
	_, told = x.conn.Write([]byte("hello\n"))
	if told != nil {
		_, _ = x.conn.Write([]byte("hello\n"))
	}
	return told
}

// refused is who answers where nobody is: the host, that nobody is there.
const refused = "nobody"

// here is the sender's own end.
func (x *sender) here() netip.AddrPort { return netip.MustParseAddrPort(x.conn.LocalAddr().String()) }

// reaches asserts that one of the next two packets is answered by a server.
func (x *sender) reaches(t *testing.T, server string) {
	t.Helper()
	var got []string
	for range 2 {
		if told := x.send(); server == refused && errors.Is(told, unix.ECONNREFUSED) {
			return
		}
		// What was sent before may still be answered by another one.
		for deadline := time.Now().Add(hello.Patience / 2); ; {
			from := x.answer(deadline)
			if from == server {
				return
			}
			got = append(got, from)
			if from == "" {
				break
			}
		}
	}
	t.Errorf("sender to %s: its next packets were answered by %q, want %s", x.name, got, server)
}

// answer is who answers next; "" if nobody does.
func (x *sender) answer(deadline time.Time) string {
	x.t.Helper()
	if err := x.conn.SetReadDeadline(deadline); err != nil {
		x.t.Fatal(err)
	}
	buf := make([]byte, 512)
	n, err := x.conn.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case err != nil:
		x.t.Fatal(err)
	}
	server, _, _ := strings.Cut(string(buf[:n]), " ")
	return server
}
