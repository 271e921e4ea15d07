package foreign

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
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

func look(t *testing.T, h *lab.Host) (engines []plan.HostLink, drops []plan.Chain) {
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
	names := func(shielded bool, names ...string) (links []plan.HostLink) {
		for _, name := range names {
			links = append(links, plan.HostLink{Name: name, Shielded: shielded})
		}
		return links
	}
	for name, row := range map[string]struct {
		chain     plan.Chain
		recording string
		engines   []plan.HostLink
	}{
		"20.10 by iptables-nft":             {nft4, "engine-20.10.iptables", names(false, all...)},
		"20.10 by legacy iptables":          {legacy4, "engine-20.10.iptables", names(false, all...)},
		"the newest by iptables-nft":        {nft4, "engine-newest.iptables", names(true, all...)},
		"the newest by legacy iptables":     {legacy4, "engine-newest.iptables", names(true, all...)},
		"the newest by ip6tables-nft":       {nft6, "engine-newest.ip6tables", names(true, "br-six")},
		"the newest by legacy ip6tables":    {plan.Chain{Family: 6, Kind: kindLegacy}, "engine-newest.ip6tables", names(true, "br-six")},
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
	var want []plan.HostLink
	for _, name := range []string{"br-alone", "br-db", "br-web", "docker0"} {
		want = append(want, plan.HostLink{Name: name, Shielded: true})
	}
	if diff := cmp.Diff(want, engines); diff != "" || drops != nil {
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
		h.Run("iptables-nft", "-N", "LOGDROP")
		h.Run("iptables-nft", "-A", "LOGDROP", "-j", "LOG", "--log-prefix", "dropped ")
		h.Run("iptables-nft", "-A", "LOGDROP", "-j", "DROP")
		h.Run("iptables-nft", "-A", "FORWARD", "-j", "LOGDROP")
		h.Run("iptables-nft", "-A", "FORWARD", "-j", "RETURN")
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
			if got := filters[0].forward[i]; got.identity() != r.identity() || got.drains != r.drains {
				t.Errorf("%s: rule %s: want %+v, got %+v", recording, r.args, r.identity(), got.identity())
			}
		}
	}
}

// TestKernelWhatNobodyCanDecodeIsSomebodys has a rule that the library gives up.
func TestKernelWhatNobodyCanDecodeIsSomebodys(t *testing.T) {
	h := lab.NewHost(t)
	h.Run("iptables-nft", "-P", "FORWARD", "DROP")
	h.Run("nft", "add", "rule", "ip", "filter", "FORWARD", "ct", "original", "ip", "saddr", "192.0.2.1", "drop")
	_, drops := look(t, h)
	if diff := cmp.Diff([]plan.Chain{nft4}, drops); diff != "" {
		t.Fatalf("chains that drop (-want +got):\n%s", diff)
	}
	want := planOf(t, &plan.Host{Drops: drops}, "web")
	applyOn(t, h, nil, want)
	h.Do(func() {
		if drift, err := (Insert{new(Rules)}).Check(context.Background(), want); err != nil || len(drift) > 0 {
			t.Errorf("after an apply: %v, %v", drift, err)
		}
	})
	if text := h.Run("nft", "list", "chain", "ip", "filter", "FORWARD"); !strings.Contains(text, "192.0.2.1 drop") || strings.Count(text, "dbrweb") != 2 {
		t.Errorf("want the rule and two accepts, got:\n%s", text)
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

func TestKernelWatchSeesLegacyRulesChange(t *testing.T) {
	h := lab.NewHost(t)
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	ctx, cancel := context.WithCancel(context.Background())
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	rules := new(Rules)
	go h.Do(func() { done <- rules.Watch(ctx, func() { woken <- struct{}{} }) })
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
	var err error
	h.Do(func() {
		err = Insert{rules}.Apply(ctx, nil, planOf(t, &plan.Host{Drops: []plan.Chain{legacy4}}, "web"))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Run("iptables-legacy", "-F", forward)
	mustWake("after our rules went as soon as they had come")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKernelWithoutNFTablesHasNoRulesThere and yet the older ones are read.
func TestKernelWithoutNFTablesHasNoRulesThere(t *testing.T) {
	h := lab.NewHost(t)
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	for _, kind := range []string{"nft", "legacy"} {
		h.Run("iptables-"+kind, "-P", "FORWARD", "DROP")
	}
	h.DoWithoutNetfilter(func() {
		_, drops, err := (&Rules{}).Look(context.Background())
		if want := []plan.Chain{{Family: 4, Kind: kindLegacy}}; err != nil || !slices.Equal(drops, want) {
			t.Errorf("want %v, got %v, %v", want, drops, err)
		}
		if found, err := (&Rules{}).Barriers(planOf(t, uplinked, "web")); err != nil || len(found) > 0 {
			t.Errorf("barriers %v, %v", found, err)
		}
	})
}
