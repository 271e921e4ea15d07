package foreign

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// passage is a container on a bridge of ours, beside a server outside.
type passage struct {
	*lab.Lab
	container         *lab.Host
	inwards, outwards string // what is asked: the container from outside, outside from the container
}

// newPassage makes one of the chain's family, where the whole host forwards.
func newPassage(t *testing.T, c plan.Chain) *passage {
	t.Helper()
	p := &passage{Lab: lab.New(t), inwards: "172.30.0.2:80"}
	p.Host.Set("net/ipv4/ip_forward", "1")
	p.Host.Set("net/ipv6/conf/all/forwarding", "1")
	p.container = container(t, p.Lab, "dbrweb000000000", 0)
	p.outwards = p.Outside.Addr.String() + ":81"
	if c.Family == 6 {
		p.inwards, p.outwards = "[fd00:30:0::2]:80", "["+p.Outside.Addr6.String()+"]:81"
	}
	p.container.Serve("tcp", ":80")
	p.Outside.Serve("tcp", ":81")
	return p
}

// open fails the test unless packets pass both ways.
func (p *passage) open() {
	p.Outside.MustReach("tcp", p.inwards, "host")
	p.container.MustReach("tcp", p.outwards, "outside")
}

// TestKernelALastRuleThatDropsAllLetsOursThrough is about rules that end FORWARD without
// a policy, and what an administrator drops in particular ahead of them.
func TestKernelALastRuleThatDropsAllLetsOursThrough(t *testing.T) {
	// Several users may test on one machine, and the lock's file is one's own.
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	for _, c := range []plan.Chain{nft4, nft6, legacy4, {Family: 6, Kind: kindLegacy}} {
		t.Run(command(c)+", beside an engine", func(t *testing.T) {
			t.Parallel()
			endsAll(t, c, "-j DROP", true)
		})
		if c == nft4 || c == legacy4 {
			t.Run(command(c)+", by a chain that logs first", func(t *testing.T) {
				t.Parallel()
				endsAll(t, c, "-j LOGDROP", true)
			})
		}
		t.Run(command(c)+", alone, with a comment, as well as by policy", func(t *testing.T) {
			t.Parallel()
			endsAll(t, c, "-m comment --comment others -j REJECT", false)
		})
	}
}

func endsAll(t *testing.T, c plan.Chain, last string, engine bool) {
	p := newPassage(t, c)
	iptables := func(words string) { p.Host.Run(command(c), strings.Fields(words)...) }
	if engine {
		iptables("-P FORWARD ACCEPT")
		for _, words := range []string{"-N DOCKER-USER", "-N DOCKER-FORWARD", "-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"} {
			iptables(words)
		}
	} else {
		iptables("-P FORWARD DROP")
	}
	for _, words := range []string{"-N LOGDROP", "-A LOGDROP -j LOG", "-A LOGDROP -j DROP", "-A FORWARD " + last} {
		iptables(words)
	}
	fresh := p.Host.Run(command(c), "-S")
	if _, err := p.container.AskFor("tcp", p.outwards, hello.Impatience); err == nil {
		t.Fatal("passed before we came")
	}
	_, drops := look(t, p.Host)
	want := planOf(t, &plan.Host{Drops: drops}, "web")
	applyOn(t, p.Host, nil, want)
	p.open()

	// What is decided ahead of the last rule holds for ours too, in whatever order.
	iptables("-I FORWARD -i eth0 -p tcp --dport 80 -j DROP")
	p.Outside.MustNotReach("tcp", p.inwards, hello.Drop)
	p.container.MustReach("tcp", p.outwards, "outside")
	iptables("-D FORWARD 1")

	// Rules may come and go around ours, which move if they must.
	iptables("-D FORWARD " + last)
	if engine {
		iptables("-I FORWARD 3 " + last)
	} else {
		iptables("-I FORWARD " + last)
	}
	if drift := checkOn(t, p.Host, want); len(drift) != 2 {
		t.Errorf("the drop stands ahead of ours: %v", drift)
	}
	applyOn(t, p.Host, nil, want)
	p.open()
	if drift := checkOn(t, p.Host, want); len(drift) > 0 {
		t.Errorf("after moving: %v", drift)
	}
	removeFrom(t, p.Host)
	if diff := cmp.Diff(fresh, p.Host.Run(command(c), "-S")); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
}
