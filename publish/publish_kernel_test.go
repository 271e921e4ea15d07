package publish_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

func TestKernelPublishTakesWhatItHoldsFromEverybodyElse(t *testing.T) {
	taken := map[string][]string{ // by the published address: what nobody can bind, and what anybody can
		"":          {"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"},
		"0.0.0.0":   {"0.0.0.0", "127.0.0.1", "127.0.0.2"},
		"127.0.0.1": {"0.0.0.0", "127.0.0.1"},
		"::":        {"::", "::1"},
	}
	for host, barred := range taken {
		for _, proto := range []spec.Proto{spec.TCP, spec.UDP} {
			t.Run(fmt.Sprintf("%s on %q", proto, host), func(t *testing.T) {
				b := newBench(t)
				b.mustApply(nil, alone(t, port(proto, host, 8080, 1)))
				for _, addr := range taken[""] {
					for _, options := range [][]int{nil, {unix.SO_REUSEADDR}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT, unix.SO_BINDTOIFINDEX}} {
						for network, ours := range map[string]bool{"tcp": proto == spec.TCP, "udp": proto == spec.UDP} {
							want := !ours || !contains(barred, addr)
							address := net.JoinHostPort(addr, "8080")
							if had := b.bind(network, address, options...); had != want {
								t.Errorf("bind %s/%s with options %v: had %t, want %t", address, network, options, had, want)
							}
						}
					}
				}
			})
		}
	}
}

func contains(list []string, s string) bool {
	return strings.Contains(" "+strings.Join(list, " ")+" ", " "+s+" ")
}

func TestKernelPublishHoldsAllPortsOfAnEndpointOrNone(t *testing.T) {
	b := newBench(t)
	b.host.Bind("tcp", netip.MustParseAddrPort("127.0.0.1:8006"))
	first := port(spec.TCP, "", 7000, 1)
	before := planned(t, map[spec.ID][]spec.Port{one: {first}, two: nil})
	b.mustApply(nil, before)

	want := planned(t, map[spec.ID][]spec.Port{one: {first, port(spec.TCP, "", 8000, 10)}, two: {port(spec.UDP, "", 8006, 1)}})
	err := b.apply(before, want)
	wantObject(t, err, unix.EADDRINUSE)
	for n := 8000; n < 8010; n++ {
		if had := b.bind("tcp", fmt.Sprintf("127.0.0.1:%d", n)); had != (n != 8006) {
			t.Errorf("port %d: had %t", n, had)
		}
	}
	if b.bind("tcp", "127.0.0.1:7000") {
		t.Error("the port that the endpoint had before was let go of")
	}
	if b.bind("udp", "127.0.0.1:8006") {
		t.Error("another endpoint did not get its port")
	}
	b.mustCheck(want, "port 8000-8009/tcp on every address held: want 10, got nothing")
	b.mustApply(nil, before)
}

func TestKernelPublishFindsWhatDiffersWithoutBeingTold(t *testing.T) {
	b := newBench(t)
	old, now := alone(t, port(spec.TCP, "", 8080, 2)), planned(t, map[spec.ID][]spec.Port{two: {port(spec.TCP, "", 9090, 1)}})
	b.mustApply(nil, old)
	b.mustCheck(now, "endpoint "+string(one)+" unplanned ports held: want nothing, got 2",
		"port 9090/tcp on every address held: want 1, got nothing")
}

func TestKernelPublishPassesAPortFromOneEndpointToAnother(t *testing.T) {
	b := newBench(t)
	wide, narrow := port(spec.TCP, "", 8080, 1), port(spec.TCP, "127.0.0.1", 8080, 1)
	at := func(id spec.ID, p spec.Port) *plan.Plan {
		return planned(t, map[spec.ID][]spec.Port{id: {p}})
	}
	have := at(one, wide)
	b.mustApply(nil, have)
	for _, want := range []*plan.Plan{at(two, wide), at(one, narrow), at(one, wide), at(two, narrow)} {
		b.mustApply(have, want)
		have = want
	}
}

func TestKernelPublishLeavesNothingOpen(t *testing.T) {
	b := newBench(t)
	b.host.Serve("tcp", "127.0.0.1:8009")
	snapshot, files := b.host.Snapshot(), len(openFiles(t))
	fine := alone(t, port(spec.TCP, "", 7000, 10), port(spec.UDP, "", 7000, 10))
	for range 3 {
		b.mustApply(nil, fine)
		b.mustApply(nil, fine)
		b.mustApply(fine, fine)
		if got := len(openFiles(t)); got != files+20 {
			t.Errorf("%d files more are open, want 20", got-files)
		}
		if err := b.apply(fine, alone(t, port(spec.TCP, "", 8000, 10))); err == nil {
			t.Error("a taken port was had")
		}
	}
	b.mustApply(nil, fine)
	for range 2 {
		if err := b.Remove(b.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := len(openFiles(t)); got != files {
		t.Errorf("%d files more are open, want none", got-files)
	}
	if diff := snapshot.Diff(b.host.Snapshot()); diff != "" {
		t.Errorf("what is left:\n%s", diff)
	}
}

func TestKernelPublishWorksWithIPv6SwitchedOff(t *testing.T) {
	b := newBench(t)
	b.host.Set("net/ipv6/conf/all/disable_ipv6", "1")
	b.mustApply(nil, alone(t, port(spec.TCP, "", 8080, 1), port(spec.UDP, "", 8080, 1)))
	for _, network := range []string{"tcp", "udp"} {
		if b.bind(network, "127.0.0.1:8080") {
			t.Errorf("%s: somebody else had it", network)
		}
	}
}

func TestKernelPublishHoldsTenThousandPorts(t *testing.T) {
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	count := uint16(min(10_000, limit.Cur/2))
	b := newBench(t)
	want := alone(t, port(spec.UDP, "", 20_000, count))
	begin := time.Now()
	b.mustApply(nil, want)
	held := time.Since(begin)
	begin = time.Now()
	b.mustApply(want, plan.New(spec.State{}, &plan.Host{}))
	t.Logf("%d ports held in %v, let go of in %v", count, held, time.Since(begin))
}

// TestKernelPublishEndsTheSameByEveryWay walks through random plans and compares
// with what the kernel gives to others.
func TestKernelPublishEndsTheSameByEveryWay(t *testing.T) {
	b := newBench(t)
	hosts := []string{"", "0.0.0.0", "127.0.0.1", "::"}
	rapid.Check(t, func(r *rapid.T) {
		var have *plan.Plan
		for range rapid.IntRange(1, 5).Draw(r, "plans") {
			published := map[spec.ID][]spec.Port{}
			taken := map[string]bool{}
			for number := uint16(5001); number <= 5004; number++ {
				owner := rapid.SampledFrom([]spec.ID{"", one, two}).Draw(r, "owner")
				if owner == "" {
					continue
				}
				host := rapid.SampledFrom(hosts).Draw(r, "host")
				published[owner] = append(published[owner], port(spec.TCP, host, number, 1))
				taken[fmt.Sprintf("127.0.0.1:%d", number)] = host != "::"
				taken[fmt.Sprintf("[::1]:%d", number)] = host == "" || host == "::"
			}
			want := planned(t, published)
			if rapid.IntRange(0, 3).Draw(r, "look") == 0 {
				have = nil
			}
			b.mustApply(have, want)
			have = want
			for number := 5001; number <= 5004; number++ {
				for _, format := range []string{"127.0.0.1:%d", "[::1]:%d"} {
					if address := fmt.Sprintf(format, number); b.bind("tcp", address) == taken[address] {
						r.Errorf("%s: taken %t, want %t", address, !taken[address], taken[address])
					}
				}
			}
		}
	})
}
