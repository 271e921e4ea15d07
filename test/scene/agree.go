package scene

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// Agrees asks everything with packets and compares with the table of this kind of
// network. What the plan's trace says that a rule of ours drops that rule must have
// counted: drops tells what each has dropped so far, by the trace's word for it.
func (v *Village) Agrees(k reach.Kind, table string, drops func() map[string]int) {
	v.T.Helper()
	dropped, _ := v.silent(k)
	before := drops()
	if diff := cmp.Diff(strings.Split(table, "\n"), strings.Split(k.Table(v.judge), "\n")); diff != "" {
		v.T.Errorf("(-want +got):\n%s", diff)
	}
	after := drops()
	for why, questions := range dropped {
		if after[why]-before[why] >= len(questions) {
			continue
		}
		// A busy machine may give a question up before it is sent.
		before := drops()
		v.ask(questions, hello.Patience)
		if n := drops()[why] - before[why]; n < len(questions) {
			v.T.Errorf("%q has dropped %d packets, want %d", why, n, len(questions))
		}
	}
}

// ask puts questions all at once that must meet silence.
func (v *Village) ask(questions []reach.Question, wait time.Duration) {
	v.T.Helper()
	var asking sync.WaitGroup
	for _, q := range questions {
		asking.Go(func() {
			if o := v.put(q, wait); o.Verdict != hello.Drop {
				v.T.Errorf("%s asks %s: want silence, got %s", q.Client.Name, q.To, o.Verdict)
			}
		})
	}
	asking.Wait()
}

// silent are the questions that meet silence by the plan's trace: what each rule of ours
// drops, and what something else does.
func (v *Village) silent(k reach.Kind) (dropped map[string][]reach.Question, lost []reach.Question) {
	dropped = map[string][]reach.Question{}
	trace := v.engine.Traced(v.plan)
	var mu sync.Mutex
	k.Table(func(q reach.Question) reach.Outcome {
		o := trace(q)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case o.Foreign:
			lost = append(lost, q)
		case o.Why != "":
			dropped[o.Why] = append(dropped[o.Why], q)
		}
		return o
	})
	return dropped, lost
}

// patience is how long an answer that should come may take: a hundred questions are
// asked at once, on several hosts, and silence is told from slowness by nothing else.
const patience = 4 * hello.Patience

// judge asks with packets. It waits long for what the trace says should be answered.
func (v *Village) judge(q reach.Question) reach.Outcome {
	if v.engine.Traced(v.plan)(q).Verdict == hello.Drop {
		return v.put(q, hello.Impatience)
	}
	return v.put(q, patience)
}

func (v *Village) put(q reach.Question, wait time.Duration) reach.Outcome {
	client := v.machines[q.Client.Name]
	if q.Proto == plan.Ping {
		return reach.Outcome{Verdict: hello.Judge(client.Ping(q.To.Addr(), wait))}
	}
	answer, err := client.AskFor("tcp", q.To.String(), wait)
	return reach.Outcome{Verdict: hello.Judge(err), Server: answer.Server, Client: answer.Client.Addr().Unmap()}
}

// listen counts the questions that arrive at a container, answered or not.
func (v *Village) listen(m reach.Machine) {
	v.machines[m.Name].Feed(`table inet arrived {
	chain here {
		type filter hook prerouting priority raw;
		tcp flags & (syn | ack) == syn counter
		icmp type echo-request counter
		icmpv6 type echo-request counter
	}
}`, "nft", "-f", "-")
}

var arrivals = regexp.MustCompile(`counter packets (\d+)`)

// arrived is how many questions have come to a container so far.
func (v *Village) arrived(name string) int {
	total := 0
	for _, found := range arrivals.FindAllStringSubmatch(v.machines[name].Run("nft", "list", "table", "inet", "arrived"), -1) {
		n, err := strconv.Atoi(found[1])
		if err != nil {
			v.T.Fatal(err)
		}
		total += n
	}
	return total
}

// NeverArrives asks what no rule of ours, and hence no counter of ours, keeps from being
// answered, by the plan's trace. It must not arrive where a later packet does: the host,
// which may ask every container everything, asks the same after it.
func (v *Village) NeverArrives(k reach.Kind) {
	v.T.Helper()
	_, all := v.silent(k)
	for _, m := range reach.Machines() {
		lost := slices.DeleteFunc(slices.Clone(all), func(q reach.Question) bool { return q.To.Addr() != m.IPv4 && q.To.Addr() != m.IPv6 })
		if len(lost) == 0 {
			continue
		}
		before := v.arrived(m.Name)
		v.ask(lost, hello.Impatience)
		if n := v.arrived(m.Name) - before; n != 0 {
			v.T.Errorf("%d of %v have arrived at %s", n, lost, m.Name)
		}
		for i, q := range lost {
			q.Client = host()
			if o := v.judge(q); o.Verdict != hello.Accept {
				v.T.Errorf("the host asks %s: want an answer, got %s", q.To, o.Verdict)
			}
			if n := v.arrived(m.Name) - before; n <= i {
				v.T.Errorf("the host has asked %s, and nothing arrived at %s", q.To, m.Name)
			}
		}
	}
}

func host() reach.Machine {
	all := reach.Machines()
	return all[slices.IndexFunc(all, func(m reach.Machine) bool { return m.Name == reach.Host })]
}
