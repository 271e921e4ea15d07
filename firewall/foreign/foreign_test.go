package foreign

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

var (
	nft4    = plan.Chain{Family: 4, Kind: kindNFT}
	nft6    = plan.Chain{Family: 6, Kind: kindNFT}
	legacy4 = plan.Chain{Family: 4, Kind: kindLegacy}
)

// recorded reads the rules of a real host, as iptables -S printed them.
func recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEveryBridgeThatAnEngineNamesIsFound(t *testing.T) {
	all := []string{"br-alone", "br-db", "br-six", "br-web", "docker0"}
	for name, row := range map[string]struct {
		recording string
		want      []string
		drops     bool
	}{
		"20.10 names them in FORWARD":                     {"engine-20.10.iptables", all, true},
		"the newest names them in chains of its own":      {"engine-newest.iptables", all, true},
		"the newest names those with IPv6 in ip6tables":   {"engine-newest.ip6tables", []string{"br-six"}, true},
		"a host with ufw and no engine names none":        {"ufw.iptables", nil, true},
		"20.10 beside ufw names the same as without":      {"engine-20.10-ufw.iptables", all, true},
		"an administrator's rules name none of an engine": {"administrator.iptables", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFilter(nft4, recorded(t, row.recording))
			if diff := cmp.Diff(row.want, sortedOnce(f.engines)); diff != "" {
				t.Errorf("bridges (-want +got):\n%s", diff)
			}
			if f.drops != row.drops {
				t.Errorf("drops the rest: want %t, got %t", row.drops, f.drops)
			}
		})
	}
}

func sortedOnce(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

func TestRuleIsReadAsIptablesPrintsIt(t *testing.T) {
	for name, row := range map[string]struct {
		text string
		want rule
	}{
		"ours is plain": {
			`-i dbr0 -m comment --comment "drawbridge network 3f2a" -j ACCEPT`,
			rule{in: "dbr0", target: "ACCEPT", comment: "drawbridge network 3f2a", plain: true},
		},
		"a negated interface is none":     {`-i docker0 ! -o docker0 -j ACCEPT`, rule{in: "docker0", target: "ACCEPT"}},
		"a wildcard is none":              {`-i br-+ -j DROP`, rule{target: "DROP"}},
		"a goto is a target":              {`-o br0 -g DOCKER`, rule{out: "br0", target: "DOCKER", plain: true}},
		"any other match makes it unlike": {`-s 10.0.0.0/8 -i br0 -j ACCEPT`, rule{in: "br0", target: "ACCEPT"}},
		"a comment may hold quotes": {
			`-m comment --comment "a \"b\" -j DROP" -j ACCEPT`, rule{comment: `a "b" -j DROP`, target: "ACCEPT", plain: true},
		},
		"how it rejects is no match":        {`-j REJECT --reject-with icmp-port-unreachable`, rule{target: "REJECT", plain: true}},
		"a target's options make it unlike": {`-i br0 -j LOG --log-prefix "[x] "`, rule{in: "br0", target: "LOG"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseRule(words(row.text))
			got.args = nil
			if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(rule{})); diff != "" {
				t.Errorf("rule (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsQuotedIsReadAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.StringMatching(`[a-z "\\-]{1,8}`), 1, 5).Draw(t, "words")
		var line []string
		for _, word := range want {
			line = append(line, quote(word))
		}
		if diff := cmp.Diff(want, words(strings.Join(line, " "))); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", line, diff)
		}
	})
}

func id(prefix string) spec.ID { return spec.ID(prefix + strings.Repeat("0", 64-len(prefix))) }

func TestAcceptsStandBehindTheEngineAndAheadOfWhatEndsAll(t *testing.T) {
	in := accept{"-i", "dbrweb", id("web")}
	out := accept{"-o", "dbrweb", id("web")}
	const last = `-m comment --comment "nobody else" -j REJECT --reject-with icmp-port-unreachable`
	for name, row := range map[string]struct{ recording, more, above, below string }{
		"20.10, behind all of its own":              {"engine-20.10.iptables", "", "-i br-alone -o br-alone -j DROP", ""},
		"the newest, behind its two jumps":          {"engine-newest.iptables", "", "-j DOCKER-FORWARD", ""},
		"ufw alone, ahead of its first chain":       {"ufw.iptables", "", "", "-j ufw-before-logging-forward"},
		"20.10 beside ufw, between the two":         {"engine-20.10-ufw.iptables", "", "-i docker0 -o docker0 -j ACCEPT", "-j ufw-before-logging-forward"},
		"no engine, behind what decides before it":  {"administrator.iptables", "", "-i br-lan -j ACCEPT", ""},
		"ahead of a last rule that drops all":       {"administrator.iptables", "-i eth2 -j DROP\n-j DROP", "-i eth2 -j DROP", "-j DROP"},
		"ahead of one that rejects with a comment":  {"engine-newest.iptables", "-s 10.0.0.0/8 -j DROP\n" + last, "-s 10.0.0.0/8 -j DROP", "-m comment --comment nobody else -j REJECT --reject-with icmp-port-unreachable"},
		"ahead of who logs and drops":               {"engine-newest.iptables", "-s 10.0.0.0/8 -j DROP\n-j LOGDROP\n-A LOGDROP -j LOG\n-A LOGDROP -j DROP", "-s 10.0.0.0/8 -j DROP", "-j LOGDROP"},
		"behind a drop that the engine jumps after": {"", "-j DROP\n-j DOCKER-USER\n-i eth2 -j DROP", "-i eth2 -j DROP", ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := ""
			if row.recording != "" {
				text = recorded(t, row.recording)
			}
			for line := range strings.Lines(row.more) {
				if !strings.HasPrefix(line, "-A") {
					line = "-A FORWARD " + line
				}
				text += line
			}
			before := newFilter(nft4, text).forward
			after := before
			for _, s := range place(before, []accept{in, out}) {
				after = s.do(after)
			}
			first := slices.IndexFunc(after, func(r rule) bool { return r.ours() })
			if len(after) != len(before)+2 || first < 0 || !after[first+1].ours() {
				t.Fatalf("want two accepts side by side, got %v", after)
			}
			if got := textAt(after, first-1); got != row.above {
				t.Errorf("above them: want %q, got %q", row.above, got)
			}
			if got := textAt(after, first+2); got != row.below {
				t.Errorf("below them: want %q, got %q", row.below, got)
			}
		})
	}
}

func TestWhatEndsAllDecidesWhetherForwardDrops(t *testing.T) {
	for name, row := range map[string]struct {
		text string
		want bool
	}{
		"policy ACCEPT":                          {"-P FORWARD ACCEPT", false},
		"policy DROP":                            {"-P FORWARD DROP\n-A FORWARD -i br0 -j ACCEPT", true},
		"a last DROP":                            {"-P FORWARD ACCEPT\n-A FORWARD -i br0 -j ACCEPT\n-A FORWARD -j DROP", true},
		"a last REJECT with its answer":          {"-A FORWARD -j REJECT --reject-with tcp-reset", true},
		"a last DROP with a comment":             {`-A FORWARD -m comment --comment "no more" -j DROP`, true},
		"a DROP for one interface is none":       {"-A FORWARD -i eth2 -j DROP", false},
		"a DROP for all but one is none":         {"-A FORWARD ! -i eth2 -j DROP", false},
		"a DROP for a source is none":            {"-A FORWARD -s 10.0.0.0/8 -j DROP", false},
		"an ACCEPT of all leaves a DROP nothing": {"-A FORWARD -j ACCEPT\n-A FORWARD -j DROP", false},
		"a jump to who logs and drops":           {"-A FORWARD -j LOGDROP\n-A LOGDROP -m limit --limit 1/sec -j LOG\n-A LOGDROP -j DROP", true},
		"one by way of another":                  {"-A FORWARD -g OFFICE\n-A OFFICE -i eth2 -j ACCEPT\n-A OFFICE -j LOGDROP\n-A LOGDROP -j LOG\n-A LOGDROP -j REJECT", true},
		"a jump to who drops some is none":       {"-A FORWARD -j OFFICE\n-A OFFICE -i eth2 -j DROP", false},
		"nor to who returns first":               {"-A FORWARD -j OFFICE\n-A OFFICE -j RETURN\n-A OFFICE -j DROP", false},
		"a jump of some to who drops all":        {"-A FORWARD -i eth2 -j LOGDROP\n-A LOGDROP -j DROP", false},
		"an administrator's DROP in DOCKER-USER": {"-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j DROP", false},
		"a chain that leads to itself":           {"-A FORWARD -j A\n-A A -j A", false},
		"and the policy neither":                 {"-P FORWARD DROP\n-A FORWARD -j ACCEPT", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newFilter(nft4, row.text).drops; got != row.want {
				t.Errorf("drops: want %t, got %t", row.want, got)
			}
		})
	}
}

func textAt(rules []rule, i int) string {
	if i < 0 || i >= len(rules) {
		return ""
	}
	return strings.Join(rules[i].args, " ")
}

// TestPlaceHealsAnyOrder shows for any chain that the changes leave every wanted
// accept once and in its place, everything foreign as it was, and nothing to do.
func TestEachChainIsReadOnceHoweverManyLeadToIt(t *testing.T) {
	jump := func(to ...string) (rules []rule) {
		for _, target := range to {
			rules = append(rules, rule{plain: true, target: target})
		}
		return rules
	}
	reads := 0
	rules := jump("1", "1", "1")
	follow(rules, func(chain string) []rule {
		reads++
		if len(chain) == deepest {
			return jump("DROP")
		}
		next := chain + "1"
		return append([]rule{{target: "ACCEPT"}}, jump(next, next, next)...)
	})
	if reads != deepest || !rules[0].drains || !rules[2].drains {
		t.Errorf("%d chains: read %d times, drains %t and %t", deepest, reads, rules[0].drains, rules[2].drains)
	}
}

func TestPlaceHealsAnyOrder(t *testing.T) {
	wanted := []accept{{"-i", "dbra", id("a")}, {"-o", "dbra", id("a")}, {"-i", "dbrb", id("b")}}
	any := []rule{
		wanted[0].rule(),
		wanted[1].rule(),
		wanted[2].rule(),
		accept{"-i", "dbrold", id("old")}.rule(),
		{target: "DOCKER-USER", plain: true},
		{out: "docker0", target: "DOCKER", plain: true},
		{target: "ufw-before-forward", plain: true},
		{in: "eth0", target: "DROP", plain: true},
		{target: "DROP", plain: true},
		{target: "REJECT", plain: true},
	}
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.SampledFrom(any), 0, 12).Draw(t, "rules")
		after := rules
		for _, s := range slices.Concat(stray(rules, wanted), place(without(rules, wanted), wanted)) {
			after = s.do(after)
		}
		if diff := cmp.Diff(foreignOnly(rules), foreignOnly(after), cmp.AllowUnexported(rule{})); diff != "" {
			t.Fatalf("foreign rules (-before +after):\n%s", diff)
		}
		from, to := window(after)
		for _, a := range wanted {
			if got := locate(after)[a.rule().identity()]; got != (copies{within: 1}) {
				t.Fatalf("%v: want once in [%d, %d), got %+v in %v", a, from, to, got, after)
			}
		}
		if left := slices.Concat(stray(after, wanted), place(after, wanted)); len(left) > 0 {
			t.Fatalf("still to do: %v", left)
		}
	})
}

// without is the chain that stray leaves.
func without(rules []rule, wanted []accept) []rule {
	for _, s := range stray(rules, wanted) {
		rules = s.do(rules)
	}
	return rules
}

func foreignOnly(rules []rule) []rule {
	return slices.DeleteFunc(slices.Clone(rules), rule.ours)
}

func TestSamePlanCostsNoLook(t *testing.T) {
	host := &plan.Host{Drops: []plan.Chain{nft4, nft6}}
	one, two := planOf(t, host, "web"), planOf(t, host, "web", "db")
	noDrops := planOf(t, &plan.Host{}, "web", "db")
	for name, row := range map[string]struct {
		have, want         *plan.Plan
		withdraws, inserts bool
	}{
		"the same plan":                      {one, one, false, false},
		"a network more":                     {one, two, false, true},
		"a network less":                     {two, one, true, false},
		"FORWARD no longer drops":            {two, noDrops, true, false},
		"FORWARD drops from now on":          {noDrops, two, false, true},
		"a network more, and nothing drops":  {planOf(t, &plan.Host{}), noDrops, false, false},
		"the same networks, planned anew":    {two, planOf(t, host, "web", "db"), false, false},
		"no network, and FORWARD drops anew": {planOf(t, &plan.Host{}), planOf(t, host), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := shrinks(row.have, row.want); got != row.withdraws {
				t.Errorf("Withdraw looks: want %t, got %t", row.withdraws, got)
			}
			if got := shrinks(row.want, row.have); got != row.inserts {
				t.Errorf("Insert looks: want %t, got %t", row.inserts, got)
			}
		})
	}
}

// newNetwork is the i-th network of a test, with both families.
func newNetwork(name string, i int) *spec.Network {
	subnet := netip.MustParsePrefix(fmt.Sprintf("172.30.%d.0/24", i))
	subnet6 := netip.MustParsePrefix(fmt.Sprintf("fd00:30:%d::/64", i))
	return &spec.Network{ID: id(name), Pools: []spec.Pool{
		{Prefix: subnet, Gateway: subnet.Addr().Next()}, {Prefix: subnet6, Gateway: subnet6.Addr().Next()},
	}}
}

// planOf plans networks of both families by these names.
func planOf(t *testing.T, host *plan.Host, names ...string) *plan.Plan {
	t.Helper()
	var s spec.State
	for i, name := range names {
		if err := s.AddNetwork(newNetwork(name, i)); err != nil {
			t.Fatal(err)
		}
	}
	return plan.New(s, host)
}
