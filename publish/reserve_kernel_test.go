package publish_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

var owner = plan.Owner{Network: web, Endpoint: one}

func (b *bench) reserve(who plan.Owner, ports ...spec.Port) (release func(), err error) {
	b.host.Do(func() {
		release, err = b.Reserve(who, ports)
		err = named(err)
	})
	return release, err
}

func (b *bench) mustReserve(who plan.Owner, ports ...spec.Port) (release func()) {
	b.Helper()
	release, err := b.reserve(who, ports...)
	if err != nil {
		b.Fatal(err)
	}
	return release
}

// mustHold fails unless a port is held, or free for anybody.
func (b *bench) mustHold(number int, held bool) {
	b.Helper()
	if had := b.bind("tcp", fmt.Sprintf("127.0.0.1:%d", number)); had == held {
		b.Errorf("port %d: held %t, want %t", number, !had, held)
	}
}

func TestKernelPublishReservesAllPortsOrNone(t *testing.T) {
	b := newBench(t)
	b.host.Bind("tcp", netip.MustParseAddrPort("127.0.0.1:8006"))
	_, err := b.reserve(owner, port(spec.TCP, "", 7000, 1), port(spec.TCP, "", 8000, 10))
	wantObject(t, err, unix.EADDRINUSE)
	b.mustHold(7000, false)
	b.mustHold(8000, false)

	release := b.mustReserve(owner, port(spec.TCP, "", 7000, 1), port(spec.TCP, "", 8000, 5))
	b.mustHold(7000, true)
	b.mustHold(8004, true)
	release()
	b.mustHold(7000, false)
	b.mustHold(8004, false)
}

func TestKernelPublishKeepsOfWhatWasReservedOnlyWhatIsPlanned(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("six", inner6)
	wanted, other := port(spec.TCP, "", 8080, 1), port(spec.TCP, "", 8081, 1)
	release := b.mustReserve(owner, wanted, other)
	b.host.MustNotReach("tcp", "[::1]:8080", hello.Drop)
	empty := planned(t, map[spec.ID][]spec.Port{one: nil, two: {port(spec.TCP, "", 9090, 1)}})
	b.mustApply(nil, empty)
	b.mustHold(8080, true)
	b.mustHold(8081, true)

	e := held8080(servedRow{proxy6: plan.Proxy{To: inner6}})
	want := planOf(e, &plan.Zone{})
	b.mustApply(empty, want)
	b.host.MustReach("tcp", "[::1]:8080", "six")
	release()
	b.mustHold(8080, true)
	b.mustHold(8081, false)
	b.mustCheck(want)
	b.host.MustReach("tcp", "[::1]:8080", "six")
}

func TestKernelPublishReservesWhatItHoldsAlready(t *testing.T) {
	b := newBench(t)
	want := alone(t, port(spec.TCP, "", 8080, 2))
	b.mustApply(nil, want)
	// Another endpoint of the container may get it, or the same one on fewer addresses.
	defer b.mustReserve(plan.Owner{Network: web, Endpoint: two}, port(spec.TCP, "", 8080, 1))()
	b.mustReserve(owner, port(spec.TCP, "0.0.0.0", 8080, 2), port(spec.TCP, "", 8082, 1))()
	b.mustHold(8080, true)
	b.mustHold(8081, true)
	b.mustHold(8082, false)
	b.mustCheck(want)
}

func TestKernelPublishKeepsWhatAnyReservationHas(t *testing.T) {
	b := newBench(t)
	wanted, first, second := port(spec.TCP, "", 8080, 1), port(spec.TCP, "", 8081, 1), port(spec.TCP, "", 8082, 1)
	one, two := b.mustReserve(owner, wanted, first), b.mustReserve(owner, wanted, second)
	two()
	b.mustHold(8080, true)
	b.mustHold(8081, true)
	b.mustHold(8082, false)
	one()
	b.mustHold(8080, false)
	b.mustHold(8081, false)
}

func TestKernelPublishServesNobodyWhereAPortIsOnlyReserved(t *testing.T) {
	b := newBench(t)
	b.host.Run("ip", "addr", "add", inner6.String(), "dev", "lo", "nodad")
	b.container("six", inner6)
	empty := alone(t)
	served := planOf(held8080(servedRow{proxy6: plan.Proxy{To: inner6}}), &plan.Zone{})
	b.mustApply(nil, served)
	b.host.MustReach("tcp", "[::1]:8080", "six")
	release := b.mustReserve(owner, port(spec.TCP, "", 8080, 1))
	b.mustApply(served, empty)
	b.mustHold(8080, true)
	b.host.MustNotReach("tcp", "[::1]:8080", hello.Drop)
	b.mustApply(empty, served)
	b.host.MustReach("tcp", "[::1]:8080", "six")
	b.mustApply(served, empty)
	release()
	b.mustHold(8080, false)
	b.mustReserve(owner, port(spec.TCP, "", 8080, 1))()
	release = b.mustReserve(owner, port(spec.TCP, "", 8080, 1))
	if err := b.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	release() // of what is gone
}

func TestKernelPublishKnowsWhatTheKernelGivesAway(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		whole, reserved string
		want            []spec.PortRange
	}{
		{"32768 60999", "", []spec.PortRange{{First: 32768, Last: 60999}}},
		{"40000 40009", "40005", []spec.PortRange{{First: 40000, Last: 40004}, {First: 40006, Last: 40009}}},
		{"40000 40009", "1-80,39990-40001,40004-40005,40009-50000", []spec.PortRange{{First: 40002, Last: 40003}, {First: 40006, Last: 40008}}},
		{"40000 40009", "30000-50000", nil},
		{"1024 65535", "65535", []spec.PortRange{{First: 1024, Last: 65534}}},
	} {
		b.host.Set("net/ipv4/ip_local_port_range", c.whole)
		b.host.Set("net/ipv4/ip_local_reserved_ports", c.reserved)
		var got []spec.PortRange
		var err error
		b.host.Do(func() { got, err = b.Ephemeral() })
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s without %q: got %v, %v, want %v", c.whole, c.reserved, got, err, c.want)
		}
	}
}

func TestKernelPublishTellsThatSCTPIsNotHeld(t *testing.T) {
	b := newBench(t)
	want := alone(t, port(spec.SCTP, "", 9000, 10), port(spec.TCP, "", 9000, 1), port(spec.SCTP, "0.0.0.0", 9899, 1))
	defer b.mustReserve(owner, port(spec.SCTP, "", 9000, 10))()
	b.mustApply(nil, want)
	notices := b.Notices(want)
	if publish.HasSCTP() {
		if len(notices) > 0 {
			t.Errorf("notices of what is held: %q", notices)
		}
		return
	}
	const notice = "published and not held, since this kernel has no SCTP sockets now (modprobe sctp): port 9000-9009/sctp on every address, port 9899/sctp on 0.0.0.0"
	if len(notices) != 1 || notices[0] != notice {
		t.Errorf("(-want +got):\n- %s\n+ %q", notice, notices)
	}
}
