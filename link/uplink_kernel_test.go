package link_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

func TestKernelUplinksForwardOnlyWhileANetworkNeedsIt(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	host := m.look()
	empty, want := planFor(host), planFor(host, usual()...)
	m.mustApply(empty, want)
	for _, key := range []string{"ipv4/conf/eth0/forwarding", "ipv4/conf/tun0/forwarding"} {
		if m.Sysctl("net/"+key) != "1" {
			t.Errorf("%s is off", key)
		}
	}
	if m.Sysctl("net/ipv4/ip_forward") != "0" || m.Sysctl("net/ipv6/conf/all/forwarding") != "0" {
		t.Error("the host-wide switches must stay as found")
	}
	if diff := planFor(m.look(), usual()...); diff.String() != want.String() {
		t.Errorf("what we set ourselves has changed the facts:\n%s", diff)
	}
	m.mustApply(want, empty)
	m.equals(before)
	if len(m.memory) != 0 {
		t.Errorf("still remembered: %v", m.memory)
	}
}

func TestKernelUplinkSettingsArePutBackOnlyWhereThatDoesNoHarm(t *testing.T) {
	const eth0 = "net/ipv4/conf/eth0/forwarding"
	for _, row := range []struct {
		name      string
		meanwhile string
		want      string // of eth0's forwarding afterwards
	}{
		{"nothing happened", ":", "0"},
		{"an engine turned ip_forward on", "echo 1 >/proc/sys/net/ipv4/ip_forward", "1"},
		{"ip_forward was turned on and off", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/ip_forward", "0"},
		{"an administrator turned it off and only tun0 stands", "echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding", "0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := newMachine(t)
			m.mustApply(nil, m.plan(usual()...))
			m.Run("sh", "-ec", row.meanwhile)
			m.remove()
			if got := m.Sysctl(eth0); got != row.want {
				t.Errorf("%s = %s, want %s", eth0, got, row.want)
			}
			if len(m.memory) != 0 {
				t.Errorf("still remembered: %v", m.memory)
			}
		})
	}
}

// An engine that turns IPv6 forwarding on needs no interface's force_forwarding.
func TestKernelForceForwardingGoesBackAlsoWhereTheHostForwardsByNow(t *testing.T) {
	const eth0 = "net/ipv6/conf/eth0/force_forwarding"
	m := newMachine(t)
	host := m.look()
	if !host.ForceForwarding {
		t.Skip("this kernel lacks net.ipv6.conf.IF.force_forwarding (Linux 6.17)")
	}
	m.mustApply(nil, planFor(host, usual()...))
	if got := m.Sysctl(eth0); got != "1" {
		t.Fatalf("%s = %s, want 1", eth0, got)
	}
	m.Set("net/ipv6/conf/all/forwarding", "1")
	m.remove()
	if got := m.Sysctl(eth0); got != "0" {
		t.Errorf("%s = %s, want 0", eth0, got)
	}
	if len(m.memory) != 0 {
		t.Errorf("still remembered: %v", m.memory)
	}
}

func TestKernelUplinkThatForwardedBeforeUsStaysSo(t *testing.T) {
	m := newMachine(t)
	m.Set("net/ipv4/conf/tun0/forwarding", "1")
	before := m.Snapshot()
	m.mustApply(nil, m.plan(usual()...))
	if _, ours := m.memory["ipv4.tun0.forwarding"]; ours {
		t.Error("what was on already is not ours to put back")
	}
	if routers := m.look().Routers4; !slices.Equal(routers, []string{"tun0"}) {
		t.Errorf("what we have switched on was no router: %v", routers)
	}
	m.remove()
	m.equals(before)
}

// TestKernelRoutersAreWhatForwardedBefore also without an address, and not the ports of
// bridges, nor anything on a host that forwards.
func TestKernelRoutersAreWhatForwardedBefore(t *testing.T) {
	m := newMachine(t)
	m.Run("sh", "-ec", `
		ip link add br-lan type bridge; ip link set br-lan up
		ip link add port0 type veth peer name peer0; ip link set port0 master br-lan
		ip tuntap add tap9 mode tap`)
	for _, link := range []string{"br-lan", "port0", "tap9", "tun0"} {
		m.Set("net/ipv4/conf/"+link+"/forwarding", "1")
	}
	before := m.Snapshot()
	onLan := func(n *spec.Network) { n.Bridge = "br-lan" }
	m.mustApply(nil, m.plan(adjusted("aa", onLan, "10.1.0.0/24")))
	if got, want := m.look().Routers4, []string{"br-lan", "tap9", "tun0"}; !slices.Equal(got, want) {
		t.Errorf("routers %v, want %v", got, want)
	}
	m.remove()
	m.equals(before)
	m.Set("net/ipv4/ip_forward", "1")
	if got := m.look().Routers4; got != nil {
		t.Errorf("a host that forwards: %v", got)
	}
}

func TestKernelVanishedUplinkIsForgotten(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.mustApply(nil, want)
	m.Run("ip", "link", "del", "tun0")
	m.mustApply(nil, want) // the facts have not followed yet
	if _, kept := m.memory["ipv4.tun0.forwarding"]; kept {
		t.Errorf("tun0 is still remembered: %v", m.memory)
	}
	m.remove()
}

// Without force_forwarding, as before Linux 6.17, IPv6 has only the host-wide switch.
func TestKernelHostWideForwardingIsTheFallbackOfIPv6(t *testing.T) {
	m := newMachine(t)
	m.Set("net/ipv6/conf/tun0/accept_ra", "0") // lives from no router
	before := m.Snapshot()
	facts := func() *plan.Host {
		host := m.look()
		host.ForceForwarding = false
		return host
	}
	want := planFor(facts(), usual()...)
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	for key, value := range map[string]string{"all/forwarding": "1", "eth0/accept_ra": "2", "tun0/accept_ra": "0"} {
		if got := m.Sysctl("net/ipv6/conf/" + key); got != value {
			t.Errorf("%s = %s, want %s", key, got, value)
		}
	}
	if again := planFor(facts(), usual()...); again.String() != want.String() {
		t.Errorf("what we set ourselves has changed the facts:\n%s", again)
	}
	m.remove()
	m.equals(before)
}

// lossy is a memory that cannot write.
type lossy struct{ memory }

var errDisk = errors.New("no space left")

func (lossy) Remember(string, int) error { return errDisk }

func TestKernelNothingIsSetThatCouldNotBeRemembered(t *testing.T) {
	m := newMachine(t)
	want := m.plan(usual()...)
	m.kernel = m.open(lossy{m.memory})
	err := m.apply(nil, want)
	if !errors.Is(err, errDisk) || m.Sysctl("net/ipv4/conf/eth0/forwarding") != "0" {
		t.Errorf("forwarding %s, %v", m.Sysctl("net/ipv4/conf/eth0/forwarding"), err)
	}
	if drift := m.check(want); strings.Contains(drift, "dbr") {
		t.Errorf("the networks must be there all the same:\n%s", drift)
	}
}

func TestKernelRememberedButNotYetSetIsHealed(t *testing.T) {
	m := newMachine(t)
	before := m.Snapshot()
	want := m.plan(usual()...)
	maps.Copy(m.memory, memory{"ipv4.eth0.forwarding": 0})
	m.mustApply(nil, want)
	m.mustBeAsPlanned(want)
	m.remove()
	m.equals(before)
}

// TestKernelSettingsGoByAnotherMount is the managed plugin, which sees /proc/sys
// read-only and has net of the host's, and no more of it, elsewhere.
func TestKernelSettingsGoByAnotherMount(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	before := m.Snapshot()
	want := m.plan(usual()...)
	m.kernel = m.openWith(m.memory, dir)
	m.Do(func() {
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			os.Mkdir(filepath.Join(dir, "net"), 0o755),
			unix.Mount("/proc/sys/net", filepath.Join(dir, "net"), "", unix.MS_BIND|unix.MS_REC, ""),
			readOnlyProcSys(),
		); err != nil {
			t.Fatal(err)
		}
		must(t, m.kernel.Apply(t.Context(), nil, want))
		if drift, err := m.kernel.Check(t.Context(), want); len(drift) > 0 || err != nil {
			t.Errorf("drift: %v, %v", drift, err)
		}
		must(t, m.kernel.Remove(t.Context()))
	})
	m.equals(before)
}

// Without such a mount there is another way for IPv4.
func TestKernelIPv4SettingsCanDoWithoutProcSys(t *testing.T) {
	m := newMachine(t)
	want := m.plan(network("aa", "10.1.0.0/24"), endpoint("aa", "a1", "10.1.0.2/24"))
	var err error
	m.Do(func() {
		if err = readOnlyProcSys(); err == nil {
			err = m.kernel.Apply(t.Context(), nil, want)
		}
	})
	for _, key := range []string{"dbraa0000000000/forwarding", "dbraa0000000000/route_localnet", "eth0/forwarding"} {
		if got := m.Sysctl("net/ipv4/conf/" + key); got != "1" {
			t.Errorf("%s = %s", key, got)
		}
	}
	if !errors.Is(err, unix.EROFS) || !strings.Contains(names(err), "ipv6.disable_ipv6: read-only file system") {
		t.Errorf("IPv6 has no other way, and that must be told: %v", err)
	}
}

// readOnlyProcSys gives the calling thread, which dies with its test, a view of
// its own.
func readOnlyProcSys() error {
	const sys = "/proc/sys"
	return errors.Join(
		unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(sys, sys, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", sys, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
	)
}
