package foreign

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

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

// recordCommands puts between us and a chain's commands a script that notes how
// they are called; after is what else the script does.
func recordCommands(t *testing.T, c plan.Chain, after string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{command(c), command(c) + "-restore"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\n%s\nexec %s \"$@\"\n", name, log, after, path)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, _ := os.ReadFile(log) // none where nothing was called
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

func TestKernelApplyTwiceWritesNothing(t *testing.T) {
	kinds(t, func(t *testing.T, c plan.Chain) {
		h := lab.NewHost(t)
		load(t, h, c, host(c))
		want := planOf(t, &plan.Host{Drops: []plan.Chain{c}}, "web", "db")
		applyOn(t, h, nil, want)
		calls := recordCommands(t, c, "")
		applyOn(t, h, want, want)
		if got := calls(); got[0] != "" {
			t.Errorf("nothing has changed, and yet there was run: %q", got)
		}
		applyOn(t, h, nil, want)
		if drift := checkOn(t, h, want); len(drift) > 0 {
			t.Errorf("drift: %v", drift)
		}
		for _, call := range calls() {
			if call != "" && (c.Kind == kindNFT || !strings.Contains(call, "--list-rules")) {
				t.Errorf("was run: %s", call)
			}
		}
	})
}

func TestKernelManyNetworksAreWrittenAtOnce(t *testing.T) {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("net%02d", i))
	}
	kinds(t, func(t *testing.T, c plan.Chain) {
		h := lab.NewHost(t)
		load(t, h, c, host(c))
		fresh := h.Snapshot()
		want := planOf(t, &plan.Host{Drops: []plan.Chain{c}}, names...)
		calls := recordCommands(t, c, "")
		applyOn(t, h, nil, want)
		if drift := checkOn(t, h, want); len(drift) > 0 {
			t.Errorf("after adding: %v", drift)
		}
		if got := len(calls()); got > 10 {
			t.Errorf("80 rules took %d processes", got)
		}
		h.Run(command(c), "-D", forward, "-j", "DOCKER-USER")
		h.Run(command(c), "-A", forward, "-j", "DOCKER-USER")
		if drift := checkOn(t, h, want); len(drift) != 80 {
			t.Errorf("want every accept ahead of the engine's jump, got %d", len(drift))
		}
		applyOn(t, h, nil, want)
		if drift := checkOn(t, h, want); len(drift) > 0 {
			t.Errorf("after mending: %v", drift)
		}
		h.Run(command(c), "-D", forward, "-j", "DOCKER-USER")
		h.Run(command(c), "-I", forward, "-j", "DOCKER-USER")
		removeFrom(t, h)
		if diff := fresh.Diff(h.Snapshot()); diff != "" {
			t.Errorf("after Remove:\n%s", diff)
		}
	})
}

func TestKernelWritesOneByOneWhereAllAtOnceFails(t *testing.T) {
	h := lab.NewHost(t)
	load(t, h, legacy4, host(legacy4))
	recordCommands(t, legacy4, `case "$0" in *-restore) exit 1;; esac`)
	want := planOf(t, &plan.Host{Drops: []plan.Chain{legacy4}}, "a", "b", "c", "d")
	applyOn(t, h, nil, want)
	if drift := checkOn(t, h, want); len(drift) > 0 {
		t.Errorf("drift: %v", drift)
	}
}

// TestKernelAnotherWriterMovesThePlace has somebody put rules on top whenever we
// write: our places are wrong by then, and must be found anew.
func TestKernelAnotherWriterMovesThePlace(t *testing.T) {
	h := lab.NewHost(t)
	load(t, h, legacy4, host(legacy4))
	once := filepath.Join(t.TempDir(), "once")
	path, err := exec.LookPath("iptables-legacy")
	if err != nil {
		t.Fatal(err)
	}
	recordCommands(t, legacy4, fmt.Sprintf(`case "$*" in *"-I FORWARD"*)
	if mkdir %s 2>/dev/null; then for i in 1 2 3; do %s -I FORWARD -i eth$i -j RETURN; done; fi;;
	esac`, once, path))
	want := planOf(t, &plan.Host{Drops: []plan.Chain{legacy4}}, "web")
	applyOn(t, h, nil, want)
	if _, err := os.Stat(once); err != nil {
		t.Errorf("nobody has interfered: %v", err)
	}
	if drift := checkOn(t, h, want); len(drift) > 0 {
		t.Errorf("drift: %v\n%s", drift, h.Run(path, "-S", forward))
	}
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

// TestKernelOurRulesReadAsTheCommands compares what we write over netlink, with no
// command in reach, with what iptables-nft makes of the same rules.
func TestKernelOurRulesReadAsTheCommands(t *testing.T) {
	for _, c := range []plan.Chain{nft4, nft6} {
		t.Run(command(c), func(t *testing.T) {
			path, err := exec.LookPath(command(c))
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := lab.NewHost(t), lab.NewHost(t)
			for _, h := range []*lab.Host{ours, theirs} {
				load(t, h, c, host(c))
			}
			want := planOf(t, &plan.Host{Drops: []plan.Chain{c}}, "web")
			place := fmt.Sprint(spot(newFilter(c, theirs.Run(path, "-S")).forward) + 1)
			for _, direction := range []string{"-o", "-i"} {
				theirs.Run(path, append([]string{"-I", forward, place}, accept{direction, "dbrweb000000000", id("web")}.args()...)...)
			}
			before := theirs.Snapshot()

			found := os.Getenv("PATH")
			t.Setenv("PATH", t.TempDir())
			applyOn(t, ours, nil, want)
			t.Setenv("PATH", found)
			if diff := before.Diff(ours.Snapshot()); diff != "" {
				t.Errorf("the rules differ:\n%s", diff)
			}
			ours.Run(path, append([]string{"-D", forward}, accept{"-i", "dbrweb000000000", id("web")}.args()...)...)
		})
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
