package foreign

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// uplinked is a host by whose eth0 our containers' packets go. On shown, what passes from
// port to port of a bridge meets the forward hook too.
var (
	uplinked = &plan.Host{IPv6: true, Unseen4: true, Unseen6: true, Uplinks: []plan.HostLink{{Name: "eth0"}}}
	shown    = &plan.Host{IPv6: true, Uplinks: uplinked.Uplinks}
)

func barriersOn(t *testing.T, h *lab.Host, want *plan.Plan) []Barrier {
	t.Helper()
	var all []Barrier
	var err error
	h.Do(func() { all, err = new(Rules).Barriers(want) })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// hook is a chain of the forward hook in a table of others.
func hook(family, body string) string {
	return fmt.Sprintf("table %s filter {\n chain forward {\n type filter hook forward priority 0; policy drop;\n %s\n }\n}\n", family, body)
}

// lenient is a hook whose policy lets pass what no rule decides on.
func lenient(body string) string {
	return strings.Replace(hook("inet", body), "policy drop", "policy accept", 1)
}

// with puts something into a table.
func with(what, table string) string {
	return strings.Replace(table, "chain forward", what+"\n chain forward", 1)
}

func TestKernelChainsThatStopOursAreNamed(t *testing.T) {
	const policy, main, established = "policy drop", "inet filter forward", "ct state established,related accept\n"
	for name, row := range map[string]struct {
		rules        string
		chain, cause string // "" where ours pass
	}{
		"a policy":                           {hook("inet", ""), main, policy},
		"of one family":                      {hook("ip6", ""), "ip6 filter forward", policy},
		"a policy behind answers":            {hook("inet", established), main, policy},
		"answers by a map":                   {hook("inet", "ct state vmap { established : accept, related : accept, invalid : drop }"), main, policy},
		"a last rule that drops":             {strings.Replace(hook("inet", "iifname lo accept\ncounter drop"), policy, "policy accept", 1), main, "the rule with handle 3 drops"},
		"one that rejects":                   {strings.Replace(hook("inet", "log reject"), policy, "policy accept", 1), main, "the rule with handle 2 drops"},
		"a chain that everything is sent to": {"table inet filter {\n chain deny {\n drop\n }\n}\n" + strings.Replace(hook("inet", "jump deny"), policy, "policy accept", 1), main, "it leads to chain deny, whose rule with handle 2 drops"},
		"others' ports may pass":             {hook("inet", established+"tcp dport 80 accept"), main, policy},
		"others' bridges may pass":           {hook("inet", established+`iifname { "br-lan", "virbr*" } accept`), main, policy},
		"our interface's twin may pass":      {hook("inet", established+`iifname "dbrweb" accept`), main, policy},
		"others' addresses may pass":         {hook("inet", established+"ip saddr 10.0.0.0/8 accept\nip6 saddr fd00:10::/32 accept"), main, policy},
		"all from the uplink may, to a port": {hook("inet", established+"iifname eth0 tcp dport 22 accept"), main, policy},
		"a rule nobody can decode":           {hook("inet", established+"ct original ip saddr 192.0.2.1 drop"), main, policy},
		"others' pairs of interfaces may":    {hook("inet", established+"iifname . oifname { eth0 . eth1 } accept"), main, policy},
		"ports of a bridge":                  {hook("bridge", ""), "bridge filter forward", policy},

		"both ways by a prefix":      {hook("inet", "iifname \"dbr*\" accept\noifname \"dbr*\" accept"), "", ""},
		"by its name":                {hook("inet", "iifname dbrweb000000000 accept\noifname dbrweb000000000 accept"), "", ""},
		"one way, and answers":       {hook("inet", established+`iifname "dbr*" accept`), "", ""},
		"the other way, and answers": {hook("inet", "ct state { established, related } accept\n"+`oifname "dbr*" accept`), "", ""},
		"by a set":                   {hook("inet", established+"iifname { dbrold, dbrweb000000000 } accept"), "", ""},
		"by a set of prefixes":       {hook("inet", established+"iifname { \"br-*\", \"dbr*\", lo } accept"), "", ""},
		"by a named set": {"table inet filter {\n set lan {\n type ifname\n elements = { dbrweb000000000 }\n }\n}\n" +
			hook("inet", established+"iifname @lan accept"), "", ""},
		"by a map to a chain":          {"table inet filter {\n chain ok {\n accept\n }\n}\n" + hook("inet", established+"iifname vmap { eth0 : drop, dbrweb000000000 : jump ok }"), "", ""},
		"all that is not the uplink's": {hook("inet", established+"iifname != eth0 accept"), "", ""},
		"by addresses":                 {hook("inet", established+"ip saddr 172.16.0.0/12 accept\nip6 saddr fd00::/8 accept"), "", ""},
		"only some ports of ours":      {hook("inet", established+"iifname \"dbr*\" tcp dport 443 accept"), "", ""},
		"only published ports":         {hook("inet", established+"ct status dnat accept"), "", ""},
		"all that leaves":              {hook("inet", established+"oifname eth0 accept"), "", ""},
		"only others are dropped":      {strings.Replace(hook("inet", "iifname eth2 drop\nip saddr 10.0.0.0/8 drop\ntcp dport 25 drop"), policy, "policy accept", 1), "", ""},
		"only a flood is dropped":      {with("set flood {\n type ipv4_addr\n flags dynamic\n }", lenient("add @flood { ip saddr limit rate over 100/second } drop")), "", ""},
		"only the greedy are dropped":  {with("set greedy {\n type ipv4_addr\n flags dynamic\n }", lenient("add @greedy { ip saddr ct count over 20 } drop")), "", ""},
		"only above a limit":           {with("limit lim {\n rate over 100/second\n }", lenient("limit name lim drop")), "", ""},
		"only above a quota":           {with("quota much {\n over 1 mbytes\n }", lenient("quota name much drop")), "", ""},
		"by a map's default":           {hook("inet", established+"iifname vmap { eth2 : drop, * : accept }"), "", ""},
		"ports by a prefix":            {hook("bridge", `iifname "dbv*" accept`), "", ""},
		"its table is dormant":         {strings.Replace(hook("inet", ""), "chain forward", "flags dormant;\n chain forward", 1), "", ""},
		"it is the input hook":         {strings.Replace(hook("inet", ""), "hook forward", "hook input", 1), "", ""},
		"it is firewalld's":            {strings.Replace(hook("inet", ""), "filter {", "firewalld {", 1), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t)
			h.Feed(row.rules, "nft", "-f", "-")
			before := h.Snapshot()
			want := planOf(t, uplinked, "web")
			var chains, causes []string
			found := barriersOn(t, h, want)
			for _, o := range found {
				chains, causes = append(chains, o.Table+" "+o.Chain), append(causes, o.Cause)
			}
			if diff := cmp.Diff(strings.Fields(strings.ReplaceAll(row.chain, " ", "_")), strings.Fields(strings.ReplaceAll(strings.Join(chains, " "), " ", "_"))); diff != "" {
				t.Fatalf("chains (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(row.cause, strings.Join(causes, "")); diff != "" {
				t.Errorf("cause (-want +got):\n%s", diff)
			}
			if diff := before.Diff(h.Snapshot()); diff != "" {
				t.Errorf("looking changed the host:\n%s", diff)
			}
			for _, o := range found {
				for _, line := range o.Cure() {
					h.Run("sh", "-c", line)
				}
			}
			if left := barriersOn(t, h, want); len(left) > 0 {
				t.Errorf("after its own cure: %v", left)
			}
		})
	}
}

func TestKernelWhatABridgeShowsToTheForwardHookCounts(t *testing.T) {
	h := lab.NewHost(t)
	h.Feed(hook("inet", "ct state established accept\noifname eth0 accept"), "nft", "-f", "-")
	for host, want := range map[*plan.Host]int{uplinked: 0, shown: 1} {
		if found := barriersOn(t, h, planOf(t, host, "web")); len(found) != want {
			t.Errorf("unseen in a bridge is IPv4 %t: want %d chains that stop containers of one network, got %v", host.Unseen4, want, found)
		}
	}
}

func TestKernelACommentIsNoConditionAndOurOwnChainsAreNotOthers(t *testing.T) {
	for name, row := range map[string]struct {
		commands []string
		want     int
	}{
		"an administrator's drop": {[]string{"-t mangle -A FORWARD -m comment --comment closed -j DROP"}, 1},
		"our own chain":           {[]string{"-t mangle -N DRAWBRIDGE-FORWARD", "-t mangle -A DRAWBRIDGE-FORWARD -j DROP", "-t mangle -A FORWARD -m comment --comment drawbridge -j DRAWBRIDGE-FORWARD"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t)
			for _, c := range row.commands {
				h.Run("iptables-nft", strings.Fields(c)...)
			}
			if found := barriersOn(t, h, planOf(t, uplinked, "web")); len(found) != row.want {
				t.Errorf("want %d barriers, got %v", row.want, found)
			}
		})
	}
}

// TestKernelNetworksAreJudgedApartWhereRulesTellThem has rules that name some of many.
func TestKernelNetworksAreJudgedApartWhereRulesTellThem(t *testing.T) {
	for name, row := range map[string]struct{ rules, stopped string }{
		"by nothing":            {"", "a b c"},
		"by a name":             {`iifname dbrb00000000000 accept`, "a c"},
		"by what is dropped":    {"iifname dbrb00000000000 drop\noifname dbrb00000000000 drop\naccept", "b"},
		"by addresses":          {"ip saddr 172.30.1.0/24 accept\nip6 saddr fd00:30:1::/64 accept", "a c"},
		"by a set of addresses": {"ip saddr { 172.30.0.0/24, 172.30.2.0/24 } accept\nip6 saddr { fd00:30::/64, fd00:30:2::/64 } accept", "b"},
		"by one address":        {"ip saddr 172.30.2.2 accept\nip6 saddr fd00:30:2::2 accept", "a b c"},
		"by a map":              {"iifname vmap { dbra00000000000 : accept, dbrc00000000000 : accept, dbrb00000000000 : drop }", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t)
			h.Feed(hook("inet", "ct state established accept\n"+row.rules), "nft", "-f", "-")
			var stopped []string
			want := planOf(t, uplinked, "a", "b", "c")
			for _, b := range barriersOn(t, h, want) {
				stopped = append(stopped, b.Bridges...)
			}
			short := strings.NewReplacer("dbr", "", "0", "").Replace(strings.Join(stopped, " "))
			if diff := cmp.Diff(row.stopped, short); diff != "" {
				t.Errorf("networks that are stopped (-want +got):\n%s\n%s", diff, want)
			}
		})
	}
}

// TestKernelABlocklistIsAskedForOurAddressesOnly has one as long as people have them.
func TestKernelABlocklistIsAskedForOurAddressesOnly(t *testing.T) {
	for name, row := range map[string]struct {
		flags, ours string
		want        int
	}{
		"of others' addresses":    {"", "", 0},
		"of ours too":             {"", ", 172.30.0.1", 1},
		"of others' networks":     {"flags interval;", "", 0},
		"of one that is ours too": {"flags interval;", ", 172.30.0.0/16", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t)
			var all []string
			for i := range 60000 {
				all = append(all, fmt.Sprintf("10.%d.%d.1", i/250, i%250))
			}
			h.Feed(with(fmt.Sprintf("set block {\n type ipv4_addr; %s\n elements = { %s%s }\n }", row.flags, strings.Join(all, ", "), row.ours),
				lenient("ip saddr @block drop")), "nft", "-f", "-")
			if found := barriersOn(t, h, planOf(t, uplinked, "web")); len(found) != row.want {
				t.Errorf("want %d barriers, got %v", row.want, found)
			}
		})
	}
}

// TestKernelTheLineThatIsNamedLetsPacketsPass has a person do as they are told.
func TestKernelTheLineThatIsNamedLetsPacketsPass(t *testing.T) {
	for name, rules := range map[string]string{
		"policy":  hook("inet", ""),
		"reject":  strings.Replace(hook("ip", "ct state established,related accept\nreject"), "policy drop", "policy accept", 1),
		"adopted": hook("inet", "iifname \"dbr*\" accept\noifname \"dbr*\" accept"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPassage(t, nft4)
			var s spec.State
			n := newNetwork("web", 0)
			if name == "adopted" {
				n.Bridge = "br-lan"
				p.Host.Run("ip", "link", "set", "dbrweb000000000", "name", "br-lan")
			}
			if err := s.AddNetwork(n); err != nil {
				t.Fatal(err)
			}
			want := plan.New(s, shown)
			p.Host.Feed(rules, "nft", "-f", "-")
			if _, err := p.container.AskFor("tcp", p.outwards, hello.Impatience); err == nil {
				t.Fatal("it does not stop us")
			}
			found := barriersOn(t, p.Host, want)
			if len(found) != 1 {
				t.Fatalf("want one chain, got %v", found)
			}
			for _, line := range found[0].Cure() {
				if !strings.Contains(found[0].String(), line) {
					t.Errorf("%q does not tell %q", found[0], line)
				}
				p.Host.Run("sh", "-c", line)
			}
			p.open()
			if left := barriersOn(t, p.Host, want); len(left) > 0 {
				t.Errorf("still there: %v", left)
			}
		})
	}
}

func TestKernelAChainIsToldOfOnceAndAgainAfterItWasGone(t *testing.T) {
	h := lab.NewHost(t)
	told, ended := make(chan string, 10), make(chan error, 1)
	l := Insert{&Rules{Warn: func(text string) { told <- text }}}
	ctx, cancel := context.WithCancel(context.Background())
	go h.Do(func() { ended <- l.Rules.Guard(ctx) })
	none, one, two := planOf(t, uplinked), planOf(t, uplinked, "web"), planOf(t, uplinked, "web", "db")
	// until waits for the warnings to be so many, and has somebody look all the while.
	until := func(what string, want int, p *plan.Plan) {
		t.Helper()
		wait := time.NewTicker(50 * time.Millisecond)
		defer wait.Stop()
		for deadline := time.Now().Add(30 * time.Second); ; <-wait.C {
			h.Do(func() {
				if drift, err := l.Check(context.Background(), p); err != nil || len(drift) > 0 {
					t.Errorf("what we cannot mend is no drift: %v, %v", drift, err)
				}
			})
			if got := l.Rules.Warnings(); len(got) == want {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: want %d warnings, got %q", what, want, got)
			}
		}
	}
	apply := func(have, want *plan.Plan) {
		h.Do(func() {
			if err := l.Apply(context.Background(), have, want); err != nil {
				t.Error(err)
			}
		})
	}
	h.Feed(hook("inet", ""), "nft", "-f", "-")
	apply(none, one)
	if got := l.Rules.Warnings(); len(got) != 1 {
		t.Errorf("with the first network: %q", got)
	}
	apply(one, two)
	until("with another network", 1, two)
	h.Run("nft", "add", "chain", "inet", "filter", "forward", "{ policy accept; }")
	until("once it lets us through", 0, two)
	h.Run("nft", "add", "chain", "inet", "filter", "forward", "{ policy drop; }")
	until("when it drops again", 1, two)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(told) != 2 || !strings.Contains(<-told, "table inet filter, chain forward: policy drop") {
		t.Errorf("told %d times, want twice", len(told))
	}
}
