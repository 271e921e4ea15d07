package foreign

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// load gives a host the rules of a recording.
func load(t *testing.T, h *lab.Host, c plan.Chain, recording string) {
	t.Helper()
	// Several users may test on one machine, and the lock's file is one's own.
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	h.Feed(restorable(recorded(t, recording)), command(c)+"-restore")
}

// restorable turns what iptables -S prints into what iptables-restore reads.
func restorable(listing string) string {
	var b strings.Builder
	b.WriteString("*filter\n")
	for line := range strings.Lines(listing) {
		words := strings.Fields(line)
		switch words[0] {
		case "-P":
			fmt.Fprintf(&b, ":%s %s [0:0]\n", words[1], words[2])
		case "-N":
			fmt.Fprintf(&b, ":%s - [0:0]\n", words[1])
		default:
			b.WriteString(line)
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func look(t *testing.T, h *lab.Host) (engines []string, drops []plan.Chain) {
	t.Helper()
	var err error
	h.Do(func() { engines, drops, err = new(Rules).Look(context.Background()) })
	if err != nil {
		t.Fatal(err)
	}
	return engines, drops
}

func TestKernelLookFindsWhatAnEngineWrote(t *testing.T) {
	all := []string{"br-alone", "br-db", "br-six", "br-web", "docker0"}
	for name, row := range map[string]struct {
		chain     plan.Chain
		recording string
		engines   []string
	}{
		"20.10 by iptables-nft":             {nft4, "engine-20.10.iptables", all},
		"20.10 by legacy iptables":          {legacy4, "engine-20.10.iptables", all},
		"the newest by iptables-nft":        {nft4, "engine-newest.iptables", all},
		"the newest by legacy iptables":     {legacy4, "engine-newest.iptables", all},
		"the newest by ip6tables-nft":       {nft6, "engine-newest.ip6tables", []string{"br-six"}},
		"the newest by legacy ip6tables":    {plan.Chain{Family: 6, Kind: kindLegacy}, "engine-newest.ip6tables", []string{"br-six"}},
		"an administrator's rules are none": {nft4, "administrator.iptables", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t)
			load(t, h, row.chain, row.recording)
			before := h.Snapshot()
			engines, drops := look(t, h)
			if diff := cmp.Diff(row.engines, engines); diff != "" {
				t.Errorf("engines' bridges (-want +got):\n%s", diff)
			}
			if want := row.engines != nil; slices.Equal(drops, []plan.Chain{row.chain}) != want {
				t.Errorf("FORWARD chains that drop: %v", drops)
			}
			if diff := before.Diff(h.Snapshot()); diff != "" {
				t.Errorf("looking changed the host:\n%s", diff)
			}
		})
	}
}

func TestKernelLookFindsTheBridgesOfNftablesMode(t *testing.T) {
	h := lab.NewHost(t)
	h.Feed(recorded(t, "engine-newest.nft"), "nft", "-f", "-")
	engines, drops := look(t, h)
	if diff := cmp.Diff([]string{"br-alone", "br-db", "br-web", "docker0"}, engines); diff != "" || drops != nil {
		t.Errorf("engines' bridges (-want +got):\n%s\nFORWARD chains that drop: %v", diff, drops)
	}
}

// TestKernelLookReadsBothKindsAlike shows that what we read over netlink is what
// iptables-nft prints.
func TestKernelLookReadsBothKindsAlike(t *testing.T) {
	for _, recording := range []string{"engine-20.10.iptables", "engine-newest.iptables", "engine-20.10-ufw.iptables"} {
		h := lab.NewHost(t)
		load(t, h, nft4, recording)
		h.Run("iptables-nft", append([]string{"-I", "FORWARD", "2"}, accept{"-i", "dbr0", id("a")}.args()...)...)
		h.Run("iptables-nft", append([]string{"-I", "FORWARD", "2", "-s", "10.0.0.0"}, accept{"-o", "dbr0", id("a")}.args()...)...)
		h.Run("iptables-nft", "-A", "FORWARD", "-i", "br-+", "!", "-o", "dbr0", "-p", "tcp", "--dport", "80", "-j", "REJECT")
		var filters []filter
		var err error
		h.Do(func() { filters, err = readNFT() })
		if err != nil {
			t.Fatal(err)
		}
		want := newFilter(nft4, h.Run("iptables-nft", "-S"))
		if len(filters[0].forward) != len(want.forward) {
			t.Fatalf("%s: want %d rules, got %d", recording, len(want.forward), len(filters[0].forward))
		}
		for i, r := range want.forward {
			if got := filters[0].forward[i]; got.identity() != r.identity() {
				t.Errorf("%s: rule %s: want %+v, got %+v", recording, r.args, r.identity(), got.identity())
			}
		}
	}
}

func TestKernelLookMakesNoTable(t *testing.T) {
	h := lab.NewHost(t)
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	for range 2 {
		if engines, drops := look(t, h); engines != nil || drops != nil {
			t.Errorf("an empty host: engines %v, drops %v", engines, drops)
		}
		applyOn(t, h, nil, planOf(t, &plan.Host{Drops: []plan.Chain{nft4, nft6, legacy4}}, "web"))
		h.Do(func() {
			for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
				if tables, err := os.ReadFile("/proc/thread-self/net/" + name); err != nil || len(tables) > 0 {
					t.Errorf("%s: %q %v", name, tables, err)
				}
			}
		})
		if tables := h.Run("nft", "list", "tables"); tables != "" {
			t.Errorf("nftables: %s", tables)
		}
	}
}

// layers are both, in the order in which they are applied.
type layers struct {
	withdraw Withdraw
	insert   Insert
}

func newLayers() layers {
	r := new(Rules)
	return layers{Withdraw{r}, Insert{r}}
}

func applyOn(t *testing.T, h *lab.Host, have, want *plan.Plan) {
	t.Helper()
	l := newLayers()
	h.Do(func() {
		if err := l.withdraw.Apply(context.Background(), have, want); err != nil {
			t.Error(err)
		}
		if err := l.insert.Apply(context.Background(), have, want); err != nil {
			t.Error(err)
		}
	})
}

func checkOn(t *testing.T, h *lab.Host, want *plan.Plan) []plan.Drift {
	t.Helper()
	l := newLayers()
	var all []plan.Drift
	h.Do(func() {
		for _, check := range []func(context.Context, *plan.Plan) ([]plan.Drift, error){l.withdraw.Check, l.insert.Check} {
			drift, err := check(context.Background(), want)
			if err != nil {
				t.Error(err)
			}
			all = append(all, drift...)
		}
	})
	return all
}

func removeFrom(t *testing.T, h *lab.Host) {
	t.Helper()
	l := newLayers()
	h.Do(func() {
		if err := l.insert.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		if err := l.withdraw.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// host is the recording of a busy host that fits the chain.
func host(c plan.Chain) string {
	if c.Family == 6 {
		return "engine-newest.ip6tables"
	}
	return "engine-20.10-ufw.iptables"
}

// kinds runs a test with each iptables that there is.
func kinds(t *testing.T, test func(t *testing.T, c plan.Chain)) {
	for _, c := range []plan.Chain{nft4, legacy4, nft6} {
		t.Run(command(c), func(t *testing.T) { test(t, c) })
	}
}

func TestKernelAcceptsComeAndGoAsPlanned(t *testing.T) {
	kinds(t, func(t *testing.T, c plan.Chain) {
		h := lab.NewHost(t)
		load(t, h, c, host(c))
		fresh := h.Snapshot()
		drops := &plan.Host{Drops: []plan.Chain{c}}
		none, one, two := planOf(t, drops), planOf(t, drops, "web"), planOf(t, drops, "web", "db")

		applyOn(t, h, none, one)
		withOne := h.Snapshot()
		if drift := checkOn(t, h, one); len(drift) > 0 {
			t.Errorf("after adding: %v", drift)
		}
		if got := len(strings.Split(fresh.Diff(withOne), "drawbridge network")) - 1; got != 2 {
			t.Errorf("want two rules more, got %d:\n%s", got, fresh.Diff(withOne))
		}
		applyOn(t, h, one, two)
		if drift := checkOn(t, h, two); len(drift) > 0 {
			t.Errorf("after adding a second: %v", drift)
		}
		if drift := checkOn(t, h, one); len(drift) != 2 {
			t.Errorf("two accepts too many: %v", drift)
		}
		applyOn(t, h, two, one)
		if diff := withOne.Diff(h.Snapshot()); diff != "" {
			t.Errorf("the second network left something:\n%s", diff)
		}
		applyOn(t, h, one, planOf(t, &plan.Host{}, "web"))
		if diff := fresh.Diff(h.Snapshot()); diff != "" {
			t.Errorf("once FORWARD does not drop, no accept should be left:\n%s", diff)
		}
		applyOn(t, h, nil, two)
		removeFrom(t, h)
		if diff := fresh.Diff(h.Snapshot()); diff != "" {
			t.Errorf("after Remove:\n%s", diff)
		}
	})
}

// recordCommands puts between us and iptables a script that notes how it is called.
func recordCommands(t *testing.T, c plan.Chain) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	path, err := exec.LookPath(command(c))
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nexec %s \"$@\"\n", log, path)
	if err := os.WriteFile(filepath.Join(dir, command(c)), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

func TestKernelApplyTwiceWritesNothing(t *testing.T) {
	kinds(t, func(t *testing.T, c plan.Chain) {
		h := lab.NewHost(t)
		load(t, h, c, host(c))
		want := planOf(t, &plan.Host{Drops: []plan.Chain{c}}, "web", "db")
		applyOn(t, h, nil, want)
		log := recordCommands(t, c)
		applyOn(t, h, want, want)
		if calls, err := os.ReadFile(log); err == nil {
			t.Errorf("nothing has changed, and yet it was run:\n%s", calls)
		}
		applyOn(t, h, nil, want)
		if drift := checkOn(t, h, want); len(drift) > 0 {
			t.Errorf("drift: %v", drift)
		}
		calls, _ := os.ReadFile(log)
		for line := range strings.Lines(string(calls)) {
			if c.Kind == kindNFT || !strings.Contains(line, "--list-rules") {
				t.Errorf("was run: %s", line)
			}
		}
	})
}

func TestKernelWhatOthersDoIsNoticedAndHealed(t *testing.T) {
	in, out := accept{"-i", "dbrweb000000000", id("web")}, accept{"-o", "dbrweb000000000", id("web")}
	old := accept{"-i", "dbrold", id("old")}
	user := []string{"-j", "DOCKER-USER"}
	type change struct {
		operation string
		args      []string
	}
	for name, row := range map[string]struct {
		changes []change
		drift   []accept
	}{
		"one was deleted":                 {[]change{{"-D", in.args()}}, []accept{in}},
		"both were deleted":               {[]change{{"-D", in.args()}, {"-D", out.args()}}, []accept{in, out}},
		"one stands twice":                {[]change{{"-A", in.args()}}, []accept{in}},
		"one matches less than it should": {[]change{{"-D", in.args()}, {"-I", append([]string{"-p", "tcp"}, in.args()...)}}, []accept{in, in}},
		"an unknown one carries our mark": {[]change{{"-I", old.args()}}, []accept{old}},
		"the engine jumps anew behind":    {[]change{{"-D", user}, {"-A", user}}, []accept{in, out}},
		"the engine jumps anew ahead":     {[]change{{"-D", user}, {"-I", user}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, c plan.Chain) {
				h := lab.NewHost(t)
				load(t, h, c, host(c))
				want := planOf(t, &plan.Host{Drops: []plan.Chain{c}}, "web")
				applyOn(t, h, nil, want)
				for _, change := range row.changes {
					h.Run(command(c), append([]string{change.operation, forward}, change.args...)...)
				}
				var objects, wanted []string
				for _, d := range checkOn(t, h, want) {
					objects = append(objects, d.Object)
				}
				for _, a := range row.drift {
					wanted = append(wanted, object(c, a.rule()))
				}
				if diff := cmp.Diff(wanted, objects); diff != "" {
					t.Errorf("drift (-want +got):\n%s", diff)
				}
				applyOn(t, h, nil, want)
				if drift := checkOn(t, h, want); len(drift) > 0 {
					t.Errorf("not healed: %v\n%s", drift, h.Run(command(c), "-S", forward))
				}
			})
		})
	}
}

func TestKernelMissingCommandIsToldForEachNetwork(t *testing.T) {
	h := lab.NewHost(t)
	load(t, h, nft4, "engine-20.10.iptables")
	want := planOf(t, &plan.Host{Drops: []plan.Chain{nft4}}, "web")
	t.Setenv("PATH", t.TempDir())
	var err error
	h.Do(func() { err = Insert{new(Rules)}.Apply(context.Background(), nil, want) })
	o := (*plan.ObjectError)(nil)
	if !errors.As(err, &o) || o.Owner.Network != id("web") || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("want an error of network web that names the missing command, got %v", err)
	}
}

func TestKernelLegacyRulesWithoutTheirCommandAreDrift(t *testing.T) {
	h := lab.NewHost(t)
	load(t, h, legacy4, "engine-20.10.iptables")
	t.Setenv("PATH", t.TempDir())
	if engines, drops := look(t, h); engines != nil || drops != nil {
		t.Errorf("seen without a command: %v %v", engines, drops)
	}
	if drift := checkOn(t, h, planOf(t, &plan.Host{}, "web")); len(drift) == 0 || drift[0].Object != "iptables-legacy" {
		t.Errorf("want a drift that names iptables-legacy, got %v", drift)
	}
}

func TestKernelWatchSeesLegacyRulesChange(t *testing.T) {
	h := lab.NewHost(t)
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	ctx, cancel := context.WithCancel(context.Background())
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	go h.Do(func() { done <- new(Rules).Watch(ctx, func() { woken <- struct{}{} }) })
	mustWake := func(what string) {
		t.Helper()
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatalf("not woken %s", what)
		}
	}
	mustWake("at the beginning")
	for _, change := range [][]string{{"-P", forward, "DROP"}, {"-A", forward, "-j", "ACCEPT"}, {"-F", forward}} {
		h.Run("iptables-legacy", change...)
		mustWake(fmt.Sprintf("after %v", change))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKernelPacketsPassForOursAlone shows by packets what the accepts are for:
// our network passes a FORWARD that drops, both ways, and nobody else does.
func TestKernelPacketsPassForOursAlone(t *testing.T) {
	kinds(t, func(t *testing.T, c plan.Chain) {
		l := lab.New(t)
		l.Host.Set("net/ipv4/ip_forward", "1")
		l.Host.Set("net/ipv6/conf/all/forwarding", "1")
		ours := container(t, l, "dbrweb000000000", 0)
		theirs := container(t, l, "br-lan", 1)
		outside := l.Outside.Addr.String()
		address := func(net int) string { return fmt.Sprintf("172.30.%d.2", net) }
		if c.Family == 6 {
			outside = "[" + l.Outside.Addr6.String() + "]"
			address = func(net int) string { return fmt.Sprintf("[fd00:30:%d::2]", net) }
		}
		ours.Serve("tcp", ":80")
		theirs.Serve("tcp", ":80")
		l.Outside.Serve("tcp", ":81")
		load(t, l.Host, c, host(c))
		l.Outside.MustNotReach("tcp", address(0)+":80", hello.Drop)

		applyOn(t, l.Host, nil, planOf(t, &plan.Host{Drops: []plan.Chain{c}}, "web"))
		l.Outside.MustReach("tcp", address(0)+":80", "host")
		ours.MustReach("tcp", outside+":81", "outside")
		l.Outside.MustNotReach("tcp", address(1)+":80", hello.Drop)
		theirs.MustNotReach("tcp", outside+":81", hello.Drop)

		l.Host.Run(command(c), "-I", "DOCKER-USER", "-i", "dbrweb000000000", "-j", "DROP")
		ours.MustNotReach("tcp", outside+":81", hello.Drop)
	})
}

// container is a machine behind a bridge of the lab's host, with the addresses
// 172.30.net.2 and fd00:30:net::2.
func container(t *testing.T, l *lab.Lab, bridge string, net int) *lab.Host {
	t.Helper()
	h := lab.NewHost(t)
	var ns *os.File
	var err error
	h.Do(func() { ns, err = os.Open("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	prefix, prefix6 := fmt.Sprintf("172.30.%d.", net), fmt.Sprintf("fd00:30:%d::", net)
	l.Host.Run("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0")
	l.Host.Run("ip", "addr", "add", prefix+"1/24", "dev", bridge)
	l.Host.Run("ip", "addr", "add", prefix6+"1/64", "dev", bridge, "nodad")
	l.Host.Run("ip", "link", "set", bridge, "up")
	l.Host.Run("ip", "link", "add", fmt.Sprintf("veth%d", net), "type", "veth", "peer", "name", "eth0",
		"netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
	l.Host.Run("ip", "link", "set", fmt.Sprintf("veth%d", net), "master", bridge, "up")
	h.Run("ip", "addr", "add", prefix+"2/24", "dev", "eth0")
	h.Run("ip", "addr", "add", prefix6+"2/64", "dev", "eth0", "nodad")
	h.Run("ip", "link", "set", "eth0", "up")
	h.Run("ip", "route", "add", "default", "via", prefix+"1")
	h.Run("ip", "-6", "route", "add", "default", "via", prefix6+"1")
	l.Outside.Route(netip.MustParsePrefix(prefix+"0/24"), l.Host)
	l.Outside.Route(netip.MustParsePrefix(prefix6+"/64"), l.Host)
	return h
}
