package firewalltest

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/firewall/foreign"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
	"github.com/drawbridge-net/drawbridge/test/recorded"
)

// environment is what a host is like around us, and which firewall of ours is on it: one
// setting of each of settings. None excludes another.
type environment [5]string

// What the settings are of.
const (
	bridged = iota // bridge-nf-call-{ip,ip6,arp}tables, or one value after the other while containers run
	policy         // of FORWARD
	engine         // whose rules are there
	tool           // of the two iptables the one in which FORWARD's policy and an engine's rules are
	backend        // ours
)

// Backends of ours.
const (
	NFTables       = "nftables"
	IPTablesNFT    = "iptables-nft"
	IPTablesLegacy = "iptables-legacy"
	None           = "none" // only Market asks of it
)

const (
	switched = "0 1 0"
	noRules  = "no engine"
)

func settings() [len(environment{})][]string {
	return [...][]string{
		bridged: {"1", "0", switched},
		policy:  {"ACCEPT", "DROP"},
		engine:  {noRules, recorded.Oldest, recorded.ByIPTables, recorded.ByNFTables},
		tool:    {"nft", "legacy"},
		backend: {NFTables, IPTablesNFT, IPTablesLegacy},
	}
}

func (e environment) String() string {
	return fmt.Sprintf("bridge-nf-call %s, FORWARD %s, %s, %s, %s", e[bridged], e[policy], e[engine], e[tool], e[backend])
}

// everything is every environment, the plainest first.
func everything() []environment {
	all := []environment{{}}
	for i, values := range settings() {
		var next []environment
		for _, e := range all {
			for _, value := range values {
				e[i] = value
				next = append(next, e)
			}
		}
		all = next
	}
	return all
}

// plain is a backend's plainest environment.
func plain(b Backend) environment {
	e := everything()[0]
	e[backend] = b.Name
	return e
}

// meeting is two settings together.
type meeting struct {
	i, j int
	a, b string
}

func (e environment) meetings() []meeting {
	var all []meeting
	for i := range e {
		for j := range i {
			all = append(all, meeting{i, j, e[i], e[j]})
		}
	}
	return all
}

// pairwise are a few environments in which each two settings meet at least once: again
// and again the one in which most meet that have not yet.
func pairwise() []environment {
	missing := map[meeting]bool{}
	for _, e := range everything() {
		for _, m := range e.meetings() {
			missing[m] = true
		}
	}
	gain := func(e environment) (n int) {
		for _, m := range e.meetings() {
			if missing[m] {
				n++
			}
		}
		return n
	}
	var chosen []environment
	for len(missing) > 0 {
		best := slices.MaxFunc(everything(), func(a, b environment) int { return gain(a) - gain(b) })
		for _, m := range best.meetings() {
			delete(missing, m)
		}
		chosen = append(chosen, best)
	}
	return chosen
}

// neighbour is the engine of the table that has written the rules.
func (e environment) neighbour() reach.Engine {
	rules, shields := e[engine] != noRules, e[engine] == recorded.ByIPTables || e[engine] == recorded.ByNFTables
	all := reach.Engines()
	return all[slices.IndexFunc(all, func(r reach.Engine) bool { return r.Rules == rules && r.Shields == shields })]
}

// furnish makes a host's firewall what it is without us.
func (e environment) furnish(h *lab.Host) {
	for _, family := range []string{"iptables", "ip6tables"} {
		command := family + "-" + e[tool]
		if rules := recorded.Rules(e[engine], family); rules != "" {
			h.Feed(rules, command+"-restore")
		}
		h.Run(command, "-P", "FORWARD", e[policy])
	}
	if rules := recorded.Rules(e[engine], "nft"); rules != "" {
		h.Feed(rules, "nft", "-f", "-")
	}
}

// look is what the daemon finds on such a host.
func (e environment) look(t testing.TB, h *lab.Host, r *foreign.Rules) *plan.Host {
	t.Helper()
	host := e.neighbour().Host()
	var engines []plan.HostLink
	var err error
	h.Do(func() { engines, host.Drops, err = r.Look(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	var want []plan.HostLink
	for _, link := range host.Engines {
		want = append(want, plan.HostLink{Name: link.Name, Shielded: link.Shielded})
	}
	if diff := cmp.Diff(want, engines); diff != "" {
		t.Fatalf("an engine's bridges (-want +got):\n%s", diff)
	}
	if drops := len(host.Drops) == 2; drops != (e[policy] == "DROP") {
		t.Fatalf("FORWARD chains that drop: %v", host.Drops)
	}
	return host
}

// soak says that everything is to be asked in every environment.
func soak() bool { return os.Getenv("DRAWBRIDGE_SOAK") != "" }
