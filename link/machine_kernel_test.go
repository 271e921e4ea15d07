package link_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

var _ engine.Layer = (*link.Kernel)(nil)

// memory is a link.Memory that forgets with the test.
type memory map[string]int

func (m memory) Found() (map[string]int, error)           { return maps.Clone(m), nil }
func (m memory) Remember(setting string, value int) error { m[setting] = value; return nil }
func (m memory) Forget(setting string) error              { delete(m, setting); return nil }

// machine is a namespace with our layer in it.
type machine struct {
	*lab.Host
	t      *testing.T
	memory memory
	kernel *link.Kernel
}

// newMachine has two uplinks, eth0 and tun0, and forwards nothing. Its links have no
// link-local addresses, which come when the kernel finds the time.
func newMachine(t *testing.T) *machine {
	t.Helper()
	h := lab.NewHost(t)
	h.Run("sh", "-ec", `
		ip link add eth0 address 02:00:00:00:00:01 type veth peer name far0 address 02:00:00:00:00:02
		ip link add tun0 address 02:00:00:00:00:03 type veth peer name far1 address 02:00:00:00:00:04
		for i in eth0 tun0 far0 far1; do ip link set $i addrgenmode none; echo 0 >/proc/sys/net/ipv6/conf/$i/accept_dad; ip link set $i up; done
		ip addr add 192.0.2.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad; ip addr add 198.51.100.1/24 dev tun0`)
	// The kernel makes some routes a moment after the addresses.
	lab.Until(t, "IPv6 is ready", func() error {
		routes := h.Run("ip", "-6", "route", "show", "table", "local")
		if strings.Count(routes, "ff00::/8") != 4 || !strings.Contains(routes, "local 2001:db8::1 ") {
			return errors.New(routes)
		}
		return nil
	})
	m := &machine{Host: h, t: t, memory: memory{}}
	m.kernel = m.open(m.memory)
	return m
}

// open is what a process does when it starts.
func (m *machine) open(mem link.Memory) *link.Kernel {
	m.t.Helper()
	return m.openWith(mem, "/proc/sys")
}

func (m *machine) openWith(mem link.Memory, sysctls string) *link.Kernel {
	m.t.Helper()
	var kernel *link.Kernel
	var err error
	m.Do(func() { kernel, err = link.New(mem, sysctls) })
	must(m.t, err)
	m.t.Cleanup(kernel.Close)
	return kernel
}

// apply does what the daemon does of both layers.
func (m *machine) apply(have, want *plan.Plan) error {
	m.t.Helper()
	var restored, err error
	m.Do(func() {
		restored = link.Restore{Kernel: m.kernel}.Apply(context.Background(), have, want)
		err = m.kernel.Apply(context.Background(), have, want)
	})
	if restored != nil {
		return errors.Join(restored, err)
	}
	return err
}

func (m *machine) mustApply(have, want *plan.Plan) {
	m.t.Helper()
	must(m.t, m.apply(have, want))
}

// check returns what differs, one line each.
func (m *machine) check(want *plan.Plan) string {
	m.t.Helper()
	var drift []plan.Drift
	var err error
	m.Do(func() { drift, err = m.kernel.Check(context.Background(), want) })
	must(m.t, err)
	var lines []string
	for _, d := range drift {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

func (m *machine) mustBeAsPlanned(want *plan.Plan) {
	m.t.Helper()
	if drift := m.check(want); drift != "" {
		m.t.Errorf("not as planned:\n%s", drift)
	}
}

func (m *machine) remove() {
	m.t.Helper()
	var err error
	m.Do(func() { err = m.kernel.Remove(context.Background()) })
	must(m.t, err)
}

func (m *machine) look(engines ...string) *plan.Host {
	m.t.Helper()
	var bridges []plan.HostLink
	for _, name := range engines {
		bridges = append(bridges, plan.HostLink{Name: name, Shielded: true})
	}
	var host *plan.Host
	var err error
	m.Do(func() { host, err = m.kernel.Look(context.Background(), bridges) })
	must(m.t, err)
	return host
}

// plan makes a plan for the machine as it is.
func (m *machine) plan(states ...func(*spec.State)) *plan.Plan {
	m.t.Helper()
	return planFor(m.look(), states...)
}

func planFor(host *plan.Host, states ...func(*spec.State)) *plan.Plan {
	var s spec.State
	for _, add := range states {
		add(&s)
	}
	return plan.New(s, host)
}

// equals fails the test unless the machine's picture becomes the one from before.
// The kernel makes the host route of an IPv6 address a moment after the address.
func (m *machine) equals(before lab.Snapshot) {
	m.t.Helper()
	lab.Until(m.t, "the machine is as before", func() error {
		if diff := before.Diff(m.Snapshot()); diff != "" {
			return errors.New("it differs:\n" + diff)
		}
		return nil
	})
}

func id(prefix string) spec.ID {
	return spec.ID((prefix + strings.Repeat("0", 64))[:64])
}

// network is called by a word of hexadecimal digits and has the given subnets.
func network(name string, pools ...string) func(*spec.State) {
	return adjusted(name, func(*spec.Network) {}, pools...)
}

func adjusted(name string, adjust func(*spec.Network), pools ...string) func(*spec.State) {
	n := &spec.Network{ID: id(name), Masquerade: true, InterfacePrefix: "eth"}
	for _, p := range pools {
		prefix := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, spec.Pool{Prefix: prefix, Gateway: prefix.Addr().Next()})
	}
	adjust(n)
	return func(s *spec.State) {
		if err := s.AddNetwork(n); err != nil {
			panic(err)
		}
	}
}

// endpoint is the nth of an IPv4 network 10.NET.0.0/24.
func endpoint(net, name string, addr string) func(*spec.State) {
	return func(s *spec.State) {
		e := &spec.Endpoint{ID: id(name), IPv4: netip.MustParsePrefix(addr), MAC: spec.DeriveMAC(name)}
		if err := s.AddEndpoint(id(net), e); err != nil {
			panic(err)
		}
	}
}

func joined(net, name string) func(*spec.State) {
	return func(s *spec.State) {
		if err := s.Join(id(net), id(name), "/run/docker/netns/"+name); err != nil {
			panic(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// names returns the objects of the joined ObjectErrors, with their owners.
func names(err error) string {
	var all []string
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Sprint(err)
	}
	for _, e := range joined.Unwrap() {
		if o := (*plan.ObjectError)(nil); errors.As(e, &o) {
			all = append(all, o.Owner.String()+": "+e.Error())
		}
	}
	return strings.Join(all, "\n")
}

// namespacePath names the calling thread's network namespace for another process.
func namespacePath() string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", unix.Getpid(), unix.Gettid())
}
