package link_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// lan is a bridge as a person would make it, with a port that leads elsewhere.
const lan = `
	ip link add br-lan address 02:00:00:00:00:10 mtu 1300 type bridge forward_delay 500
	ip link set br-lan addrgenmode none alias 'the office'
	ip link add lan0 mtu 1300 type veth peer name lan1
	for i in lan0 lan1; do ip link set $i addrgenmode none; ip link set $i up; done
	ip link set lan0 master br-lan
	ip addr add 192.168.7.1/24 dev br-lan; ip addr add fd00:7::1/64 dev br-lan nodad;`

// downAgain is for a bridge that was up before.
const downAgain = `
	ip link set br-lan up; echo 1 >/proc/sys/net/ipv6/conf/br-lan/keep_addr_on_down
	ip link set br-lan down; echo 0 >/proc/sys/net/ipv6/conf/br-lan/keep_addr_on_down`

// found makes a bridge, and waits for the routes that the kernel makes a moment later
// than all else.
func (m *machine) found(script string) {
	m.t.Helper()
	m.Run("sh", "-ec", script)
	m.ready("br-lan")
	if there, _ := m.Try("ip", "link", "show", "lan1"); there != "" {
		m.ready("lan1")
	}
}

func (m *machine) ready(link string) {
	m.t.Helper()
	lab.Until(m.t, link+" is ready", func() error {
		up := m.Run("ip", "link", "show", link, "up")
		if !strings.Contains(up, "LOWER_UP") || m.Sysctl("net/ipv6/conf/"+link+"/disable_ipv6") != "0" {
			return nil
		}
		routes := m.Run("ip", "-6", "route", "show", "table", "local", "dev", link)
		wanted := []string{"multicast ff00::/8 "}
		for line := range strings.Lines(m.Run("ip", "-6", "-o", "addr", "show", "dev", link)) {
			address, _, _ := strings.Cut(strings.Fields(line)[3], "/")
			wanted = append(wanted, "local "+address+" ")
		}
		for _, route := range wanted {
			if !strings.Contains(routes, route) {
				return errors.New("no " + route + "yet")
			}
		}
		return nil
	})
}

// onLAN is a network of both families on that bridge, with two endpoints.
func onLAN() []func(*spec.State) {
	return []func(*spec.State){
		adjusted("aa", func(n *spec.Network) { n.Bridge = "br-lan" }, "10.1.0.0/24", "fd00:1::/64"),
		endpoint("aa", "a1", "10.1.0.2/24"),
		endpoint("aa", "a2", "10.1.0.3/24"),
	}
}

// foundBridges are states in which a bridge may be when we come.
func foundBridges() map[string]string {
	return map[string]string{
		"up":                                 lan + "ip link set br-lan up",
		"down":                               lan + downAgain,
		"up and with the network's gateway":  lan + "ip link set br-lan up; ip addr add 10.1.0.1/24 dev br-lan; ip addr add fd00:1::1/64 dev br-lan nodad",
		"up and in the network's subnet":     lan + "ip link set br-lan up; ip addr add 10.1.0.254/24 dev br-lan",
		"without IPv6":                       lan + "ip link set br-lan up; echo 1 >/proc/sys/net/ipv6/conf/br-lan/disable_ipv6",
		"forwarding already":                 lan + "ip link set br-lan up; echo 1 >/proc/sys/net/ipv4/conf/br-lan/forwarding",
		"alone in not forwarding":            lan + "ip link set br-lan up; echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/br-lan/forwarding",
		"without a port or an address":       "ip link add br-lan address 02:00:00:00:00:10 type bridge; ip link set br-lan addrgenmode none;" + downAgain,
		"without a MAC of its own":           "ip link add br-lan type bridge; ip link set br-lan addrgenmode none up",
		"with the gateway in a wider subnet": lan + "ip link set br-lan up; ip addr add 10.1.0.1/16 dev br-lan",
		"with the MTU of its ports": `
			ip link add br-lan address 02:00:00:00:00:10 type bridge
			ip link add lan0 mtu 9000 type veth peer name lan1 mtu 9000
			for i in br-lan lan0 lan1; do ip link set $i addrgenmode none; ip link set $i up; done
			ip link set lan0 master br-lan`,
	}
}

func TestKernelBridgeIsAdoptedAndLeftAsFound(t *testing.T) {
	for name, found := range foundBridges() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.found(found)
			before := m.Snapshot()
			host := m.look()
			empty, want := planFor(host), planFor(host, onLAN()...)

			m.mustApply(empty, want)
			m.mustBeAsPlanned(want)
			text := m.Snapshot().String()
			for _, line := range before[0].Lines { // links
				if strings.HasPrefix(line, "br-lan: ") && !strings.Contains(line, " flags ") && !strings.Contains(line, " inet6_addr_gen_mode ") && !strings.Contains(text, line+"\n") {
					t.Errorf("the bridge has changed, gone is: %s", line)
				}
			}
			for _, line := range []string{
				"net/ipv4/conf/br-lan/forwarding = 1", "net/ipv4/conf/br-lan/route_localnet = 1", "net/ipv6/conf/br-lan/disable_ipv6 = 0",
				"dbva10000000000: master br-lan",
			} {
				if !strings.Contains(text, line+"\n") {
					t.Errorf("the machine lacks: %s", line)
				}
			}
			for _, address := range []string{" 10.1.0.1/24 ", " fd00:1::1/64 "} {
				if out := m.Run("ip", "-o", "addr", "show", "dev", "br-lan", "up"); !strings.Contains(out, address) {
					t.Errorf("the bridge is down or lacks%s:\n%s", address, out)
				}
			}
			if again := planFor(m.look(), onLAN()...); again.String() != want.String() {
				t.Errorf("what we added has changed the facts:\n%s", again)
			}

			m.mustApply(want, empty)
			m.equals(before)
			m.mustRememberNothing()

			m.mustApply(nil, want)
			m.mustApply(nil, want)
			m.kernel = m.open(m.memory) // another process, with what the first one remembered
			m.remove()
			m.equals(before)
			m.mustRememberNothing()
		})
	}
}

func (m *machine) mustRememberNothing() {
	m.t.Helper()
	if len(m.memory) != 0 {
		m.t.Errorf("still remembered: %v", m.memory)
	}
}

// mortal is a memory whose process is killed at a certain use of it, before or after
// it is written. Every change of a link that is not ours has such a use on one side.
type mortal struct {
	memory
	uses  *int // left until the end
	after bool
}

func (m mortal) Remember(key string, value int) error {
	return m.use(func() error { return m.memory.Remember(key, value) })
}

func (m mortal) Forget(key string) error {
	return m.use(func() error { return m.memory.Forget(key) })
}

type killed struct{}

func (m mortal) use(write func() error) error {
	*m.uses--
	switch {
	case *m.uses >= 0:
		return write()
	case m.after:
		_ = write()
	}
	panic(killed{})
}

// dies applies a plan by a process that is killed, and tells whether it came to that.
func (m *machine) dies(mem mortal, want *plan.Plan) (died bool) {
	m.t.Helper()
	kernel := m.open(mem)
	m.Do(func() {
		defer func() { died = recover() != nil }()
		if err := errors.Join(
			link.Restore{Kernel: kernel}.Apply(context.Background(), nil, want),
			kernel.Apply(context.Background(), nil, want),
		); err != nil {
			m.t.Error(err)
		}
	})
	return died
}

func TestKernelAdoptionSurvivesAKillBetweenAnyTwoSteps(t *testing.T) {
	for _, found := range []string{"down", "up and in the network's subnet", "without IPv6"} {
		t.Run(found, func(t *testing.T) {
			m := newMachine(t)
			m.found(foundBridges()[found])
			before := m.Snapshot()
			host := m.look()
			empty, want := planFor(host), planFor(host, onLAN()...)
			kills := 0
			for _, after := range []bool{false, true} {
				for at, died := 0, true; died; at++ {
					uses := at
					died = m.dies(mortal{m.memory, &uses, after}, want)
					m.remove()
					m.equals(before)
					m.mustRememberNothing()
					m.mustApply(nil, want)

					uses = at
					diedLeaving := m.dies(mortal{m.memory, &uses, after}, empty)
					if diedLeaving && at%2 == 0 { // the network comes back
						m.mustApply(nil, want)
						m.mustBeAsPlanned(want)
					}
					m.kernel = m.open(m.memory)
					m.remove()
					m.equals(before)
					m.mustRememberNothing()
					if died = died || diedLeaving; died {
						kills++
					}
				}
			}
			if kills < 10 {
				t.Errorf("only %d kills", kills)
			}
		})
	}
}

func TestKernelBridgeOfAChosenNameIsMadeWhereThereIsNone(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	text := m.Snapshot().String()
	for _, line := range []string{"br-lan: ifalias " + plan.NetworkMark(id("aa")), "br-lan: mtu 1500", "net/ipv6/conf/br-lan/accept_dad = 0"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the machine lacks: %s", line)
		}
	}
	m.mustApply(nil, want)
	m.remove()
	m.equals(before)
	m.mustRememberNothing()
}

// TestKernelWhatOthersAddToABridgeOfAChosenNameStays has the host's own configuration come
// to the bridge after us.
func TestKernelWhatOthersAddToABridgeOfAChosenNameStays(t *testing.T) {
	m := newMachine(t)
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	m.Run("ip", "addr", "add", "192.168.7.1/24", "dev", "br-lan")
	m.mustApply(nil, want)
	if addrs := m.Run("ip", "-4", "addr", "show", "dev", "br-lan"); !strings.Contains(addrs, "192.168.7.1/24") {
		t.Errorf("the address is gone:\n%s", addrs)
	}
	m.mustBeAsPlanned(want)
}

func TestKernelWhatWasAddedToAnAdoptedBridgeIsHealed(t *testing.T) {
	m := newMachine(t)
	m.found(lan + "ip link set br-lan up")
	before := m.Snapshot()
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	adopted := m.Snapshot()
	wakes := m.watch()
	for _, row := range []struct{ name, tamper, want string }{
		{"a bridge that is down", "ip link set br-lan down", "link br-lan state: want up, got down"},
		{"a missing gateway", "ip addr del 10.1.0.1/24 dev br-lan", "link br-lan address 10.1.0.1/24: want present, got nothing"},
		{"a missing IPv6 gateway", "ip addr del fd00:1::1/64 dev br-lan", "link br-lan address fd00:1::1/64: want present, got nothing"},
		{"forwarding turned off", "echo 0 >/proc/sys/net/ipv4/conf/br-lan/forwarding", "link br-lan ipv4.forwarding: want 1, got 0"},
		{"a pair without its master", "ip link set dbva10000000000 nomaster", "link dbva10000000000 master: want br-lan, got nothing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m.drain(wakes)
			// Going down takes addresses of IPv6 away, also the person's.
			m.Run("sh", "-ec", "echo 1 >/proc/sys/net/ipv6/conf/br-lan/keep_addr_on_down; "+row.tamper+"; echo 0 >/proc/sys/net/ipv6/conf/br-lan/keep_addr_on_down")
			m.mustWake(wakes)
			if drift := m.check(want); !strings.Contains(drift, row.want) {
				t.Errorf("want drift %q, got\n%s", row.want, drift)
			}
			m.mustApply(nil, want)
			m.mustBeAsPlanned(want)
			m.equals(adopted)
		})
	}
	m.remove()
	m.equals(before)
}

func TestKernelWhatAPersonDoesToAnAdoptedBridgeStays(t *testing.T) {
	m := newMachine(t)
	m.found(lan + "ip link set br-lan up")
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	wakes := m.watch()
	m.drain(wakes)
	m.Run("sh", "-ec", `
		ip addr add 10.1.0.200/24 dev br-lan # of the gateway's subnet, so secondary to it
		ip addr add 192.168.8.1/24 dev br-lan
		ip addr add fd00:8::1/64 dev br-lan nodad
		ip link set br-lan mtu 1280 address 02:00:00:00:00:11 alias 'the new office' type bridge forward_delay 700`)
	if woken := m.drain(wakes); woken != 0 {
		t.Errorf("what is a person's own woke %d times", woken)
	}
	m.mustBeAsPlanned(want)
	m.mustApply(nil, want)
	m.remove()
	m.mustRememberNothing()
	got := m.Run("ip", "-d", "addr", "show", "dev", "br-lan")
	for _, kept := range []string{" 10.1.0.200/24 ", " 192.168.8.1/24 ", " 192.168.7.1/24 ", " fd00:8::1/64 ", " fd00:7::1/64 ", "mtu 1280", "02:00:00:00:00:11", "the new office", "forward_delay 700"} {
		if !strings.Contains(got, kept) {
			t.Errorf("%q is gone:\n%s", kept, got)
		}
	}
	for _, ours := range []string{" 10.1.0.1/24 ", " fd00:1::1/64 "} {
		if strings.Contains(got, ours) {
			t.Errorf("%q is left:\n%s", ours, got)
		}
	}
}

func TestKernelAdoptedBridgeThatIsDeletedIsMade(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	m.found(lan + downAgain)
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	wakes := m.watch()
	m.drain(wakes)
	m.Run("sh", "-ec", "ip link del br-lan; ip link del lan0")
	m.mustWake(wakes)
	if drift := m.check(want); !strings.Contains(drift, "link br-lan link: want present, got nothing") {
		t.Errorf("drift:\n%s", drift)
	}
	m.mustApply(nil, want)
	// The pairs keep the MTU of the former, to which the kernel lowers that of the new.
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.remove() // it is ours now, and goes with us
	m.equals(before)
	m.mustRememberNothing()
}

func TestKernelAdoptedBridgeThatIsMadeAnewIsAdoptedAnew(t *testing.T) {
	m := newMachine(t)
	m.found(lan + downAgain)
	want := m.plan(onLAN()...)
	m.mustApply(nil, want)
	const anew = "ip link del br-lan; ip link del lan0;" + lan + "ip link set br-lan up; ip addr add 10.1.0.1/24 dev br-lan; echo 1 >/proc/sys/net/ipv4/conf/br-lan/forwarding"
	m.found(anew)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.remove()
	m.mustRememberNothing()

	fresh := newMachine(t)
	fresh.found(lan + anew)
	// Hardware addresses of the pair are the kernel's choice.
	chosen := func(_, line string) bool { return strings.HasPrefix(line, "lan") }
	if diff := fresh.Snapshot().Without(chosen).Diff(m.Snapshot().Without(chosen)); diff != "" {
		t.Errorf("it is not as its maker made it:\n%s", diff)
	}
}

func TestKernelAdoptedBridgePassesFromNetworkToNetwork(t *testing.T) {
	m := newMachine(t)
	m.found(lan + downAgain)
	before := m.Snapshot()
	host := m.look()
	first := planFor(host, onLAN()...)
	second := planFor(host, adjusted("bb", func(n *spec.Network) { n.Bridge, n.Internal = "br-lan", true }, "10.2.0.0/24"))
	for name, have := range map[string]*plan.Plan{"as a difference": first, "anew": nil} {
		m.mustApply(nil, first)
		m.mustApply(have, second)
		m.mustBeAsPlanned(second)
		if got := m.Run("ip", "addr", "show", "dev", "br-lan"); strings.Contains(got, "10.1.0.1/24") || !strings.Contains(got, "10.2.0.1/24") {
			t.Errorf("%s:\n%s", name, got)
		}
		if m.Sysctl("net/ipv4/conf/br-lan/forwarding") != "0" {
			t.Errorf("%s: the internal network forwards", name)
		}
		m.remove()
		m.equals(before)
	}
}

func TestKernelLinkOfAChosenNameThatIsNoBridgeIsAnError(t *testing.T) {
	m := newMachine(t)
	m.Run("sh", "-ec", "ip link add br-lan type veth peer name lan1; ip link set br-lan addrgenmode none; ip link set lan1 addrgenmode none")
	before := m.Snapshot()
	want := m.plan(onLAN()...)
	err := m.apply(nil, want)
	const line = "network " // of its owner
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(names(err), line+string(id("aa"))+": link br-lan: file exists: it is a veth link and no bridge; choose another name by com.docker.network.bridge.name") {
		t.Errorf("got %s", names(err))
	}
	m.remove()
	m.equals(before)
}

func TestKernelAddressesOfAnAdoptedBridgeAreInOthersWay(t *testing.T) {
	m := newMachine(t)
	m.found(lan + downAgain)
	m.mustApply(nil, m.plan(onLAN()...))
	var list []plan.Obstacle
	var err error
	m.Do(func() { list, err = m.kernel.Foreign(t.Context()) })
	must(t, err)
	own, other := &spec.Network{Bridge: "br-lan"}, &spec.Network{}
	for _, n := range []*spec.Network{own, other} {
		n.Pools = []spec.Pool{{Prefix: netip.MustParsePrefix("192.168.0.0/16")}}
	}
	if got := plan.Overlaps(own, list); len(got) != 0 {
		t.Errorf("its own bridge is in a network's way: %v", got)
	}
	if got := plan.Overlaps(other, list); !slices.ContainsFunc(got, func(o plan.Overlap) bool { return o.Obstacle.What == "address 192.168.7.1/24 of br-lan" }) {
		t.Errorf("obstacles: %v", got)
	}
}

func TestKernelRememberedButNotYetAddedIsHealed(t *testing.T) {
	m := newMachine(t)
	m.found(lan + downAgain)
	before := m.Snapshot()
	maps.Copy(m.memory, memory{"address.br-lan.10.1.0.1/24": 0, "bridge.br-lan": 1 << 20, "bridge.gone": 7})
	m.remove()
	m.equals(before)
	m.mustRememberNothing()
}
