package nftables

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// TestKernelPacketsAgreeWithTheTable asks everything that plan.Trace is asked, and what
// it says that a rule drops that rule must have counted.
func TestKernelPacketsAgreeWithTheTable(t *testing.T) {
	tables, err := reach.Read("../../plan/testdata/reach")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range reach.Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for silence
			p, err := k.Plan()
			if err != nil {
				t.Fatal(err)
			}
			v := newVillage(t, p)
			before := v.drops()
			if diff := cmp.Diff(strings.Split(tables[k.Name], "\n"), strings.Split(k.Table(v.judge), "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			after := v.drops()
			for why, n := range reasons(k, p) {
				if after[why]-before[why] < n {
					t.Errorf("%q has dropped %d packets, want %d", why, after[why]-before[why], n)
				}
			}
		})
	}
}

// reasons is how many questions each rule drops, by the plan's trace.
func reasons(k reach.Kind, p *plan.Plan) map[string]int {
	count := map[string]int{}
	var mu sync.Mutex
	trace := reach.Traced(p)
	k.Table(func(q reach.Question) reach.Outcome {
		o := trace(q)
		mu.Lock()
		defer mu.Unlock()
		if o.Why != "" {
			count[o.Why]++
		}
		return o
	})
	return count
}

// village is a lab with the machines of the table.
type village struct {
	*town
	plan     *plan.Plan
	trace    reach.Judge
	machines map[string]*lab.Host
}

func newVillage(t *testing.T, p *plan.Plan) *village {
	t.Helper()
	v := &village{town: settlePlan(t, p), plan: p, trace: reach.Traced(p)}
	v.bridge("docker0", netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("fd17::1/64"))
	// As on a host whose ip_forward is 1: no sysctl helps the firewall.
	links := []string{"docker0"}
	for _, n := range p.Networks.All() {
		links = append(links, n.Bridge.Name)
	}
	for _, link := range links {
		v.Host.Set("net/ipv4/conf/"+link+"/forwarding", "1")
		v.Host.Set("net/ipv6/conf/"+link+"/force_forwarding", "1")
	}
	v.machines = map[string]*lab.Host{reach.Host: v.Host, reach.Outside: v.Outside, reach.Neighbour: v.Neighbour}
	for _, m := range reach.Machines() {
		if m.Bridge == "" {
			serve(t, v.machines[m.Name], m.Name, "tcp [::]:22")
			continue
		}
		v.machines[m.Name] = v.machine(m)
	}
	for _, to := range []string{"172.30.0.0/16", "172.17.0.0/16", "fd00:30::/32", "fd17::/64"} {
		v.Neighbour.Route(netip.MustParsePrefix(to), v.Host)
	}
	return v
}

// machine is a container at the port of the bridge that the plan gives it.
func (v *village) machine(m reach.Machine) *lab.Host {
	bits4, bits6 := "/24", "/64"
	if m.Name == reach.D {
		bits4 = "/16"
	}
	addresses := []string{m.IPv4.String() + bits4, m.IPv6.String() + bits6}
	for _, n := range v.plan.Networks.All() {
		for _, e := range n.Endpoints.All() {
			if slices.Contains(e.Addresses, m.IPv4) {
				return v.behind(e.Veth.Name, m.Name, m.Bridge, addresses...)
			}
		}
	}
	return v.container(m.Name, m.Bridge, addresses...)
}

// judge asks with packets. It waits long for what the trace says should be answered.
func (v *village) judge(q reach.Question) reach.Outcome {
	wait := hello.Patience
	if v.trace(q).Verdict == hello.Drop {
		wait = hello.Impatience
	}
	client := v.machines[q.Client.Name]
	if q.Proto == plan.Ping {
		return reach.Outcome{Verdict: hello.Judge(client.Ping(q.To.Addr(), wait))}
	}
	answer, err := client.AskFor("tcp", q.To.String(), wait)
	return reach.Outcome{Verdict: hello.Judge(err), Server: answer.Server, Client: answer.Client.Addr().Unmap()}
}

var dropRule = regexp.MustCompile(`counter packets (\d+) bytes \d+ drop comment "([^"]+)"`)

// drops is what each rule has dropped, by its comment.
func (v *village) drops() map[string]int {
	count := map[string]int{}
	for _, family := range []string{"inet", "bridge"} {
		for _, found := range dropRule.FindAllStringSubmatch(v.Host.Run("nft", "list", "table", family, tableName), -1) {
			n, err := strconv.Atoi(found[1])
			if err != nil {
				v.t.Fatal(err)
			}
			count[found[2]] += n
		}
	}
	return count
}
