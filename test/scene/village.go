package scene

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// Village is a Town with the machines of the reachability table.
type Village struct {
	*Town
	plan     *plan.Plan
	trace    reach.Judge
	machines map[string]*lab.Host
}

// NewVillage makes a Village. Before the bridges come, protect puts up the firewall.
func NewVillage(t testing.TB, e reach.Engine, p *plan.Plan, protect func(*lab.Host)) *Village {
	t.Helper()
	v := &Village{Town: Settle(t, p, protect), plan: p, trace: e.Traced(p)}
	for _, b := range reach.Bridges() {
		v.Bridge(b.Name, b.Addresses...)
	}
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
			Serve(t, v.machines[m.Name], m.Name, "tcp [::]:22")
			continue
		}
		v.machines[m.Name] = v.machine(m)
		v.settled(m)
	}
	v.acquaint(reach.A, reach.B)
	v.acquaint(reach.B, reach.A)
	for _, to := range []string{"172.30.0.0/16", "172.17.0.0/16", "fd00:30::/32", "fd17::/64"} {
		v.Neighbour.Route(netip.MustParsePrefix(to), v.Host)
	}
	return v
}

// machine is a container at the port of the bridge that the plan gives it.
func (v *Village) machine(m reach.Machine) *lab.Host {
	bits4, bits6 := "/24", "/64"
	if m.Name == reach.D {
		bits4 = "/16"
	}
	addresses := []string{m.IPv4.String() + bits4, m.IPv6.String() + bits6}
	for _, n := range v.plan.Networks.All() {
		for _, e := range n.Endpoints.All() {
			if slices.Contains(e.Addresses, m.IPv4) {
				return v.Behind(e.Veth.Name, m.Name, m.Bridge, addresses...)
			}
		}
	}
	return v.Container(m.Name, m.Bridge, addresses...)
}

// acquaint tells a container where its neighbour is. Where they are kept apart it could
// not find out, and what it asks would never be sent.
func (v *Village) acquaint(name, neighbour string) {
	link := strings.Fields(v.machines[neighbour].Run("ip", "-o", "link", "show", "dev", "eth0"))
	mac := link[slices.Index(link, "link/ether")+1]
	for _, m := range reach.Machines() {
		if m.Name == neighbour {
			v.machines[name].Run("ip", "neigh", "replace", m.IPv6.String(), "lladdr", mac, "dev", "eth0", "nud", "permanent")
		}
	}
}

// settled waits until a container and its gateways know each other, which on a busy
// machine may take longer than a question is given.
func (v *Village) settled(m reach.Machine) {
	var gateways []netip.Prefix
	for _, b := range reach.Bridges() {
		if b.Name == m.Bridge {
			gateways = b.Addresses
		}
	}
	for _, n := range v.plan.Networks.All() {
		if n.Bridge.Name == m.Bridge {
			gateways = n.Bridge.Addresses
		}
	}
	for _, gateway := range gateways {
		v.machines[m.Name].MustPing(gateway.Addr().String())
	}
}

// Agrees asks everything with packets and compares with the table of this kind of
// network. What the plan's trace says that a rule drops that rule must have counted:
// drops tells what each has dropped so far, by the trace's word for it.
func (v *Village) Agrees(k reach.Kind, table string, drops func() map[string]int) {
	v.T.Helper()
	before := drops()
	if diff := cmp.Diff(strings.Split(table, "\n"), strings.Split(k.Table(v.judge), "\n")); diff != "" {
		v.T.Errorf("(-want +got):\n%s", diff)
	}
	after := drops()
	for why, n := range v.reasons(k) {
		if after[why]-before[why] < n {
			v.T.Errorf("%q has dropped %d packets, want %d", why, after[why]-before[why], n)
		}
	}
}

// reasons is how many questions each rule drops, by the plan's trace.
func (v *Village) reasons(k reach.Kind) map[string]int {
	count := map[string]int{}
	var mu sync.Mutex
	k.Table(func(q reach.Question) reach.Outcome {
		o := v.trace(q)
		mu.Lock()
		defer mu.Unlock()
		if o.Why != "" {
			count[o.Why]++
		}
		return o
	})
	return count
}

// judge asks with packets. It waits long for what the trace says should be answered.
func (v *Village) judge(q reach.Question) reach.Outcome {
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
