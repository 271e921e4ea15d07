// Package bench measures what published ports cost on networks of Drawbridge's and on
// Docker's own bridge, by turns on the same engine: time to start and to remove a
// container, memory, and new connections a second. It judges nothing that a server
// answers, and no time of its own means anything without the one beside it.
package bench

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// network is what containers are started on.
type network struct {
	name     string
	create   []string // flags for docker network create, nil for --network none
	firewall string   // Drawbridge's, "" without Drawbridge
}

func none() network   { return network{name: "no network"} }
func bridge() network { return network{name: "Docker's bridge", create: []string{"-d", "bridge"}} }

func drawbridge(firewall string) network {
	return network{
		name:     "Drawbridge, " + firewall,
		create:   []string{"-d", "drawbridge", "--ipam-driver", "drawbridge"},
		firewall: firewall,
	}
}

// load is what a container publishes.
type load struct {
	name  string
	ports []string      // e.g. 8000:80/udp
	crowd bool          // memory and connections are measured beside it
	limit time.Duration // for its start, and for its removal
}

// loads are what all networks bear, from the first that costs next to nothing.
func loads() []load {
	return []load{
		{name: "0", crowd: true},
		{name: "1", ports: singles(1)},
		{name: "10", ports: singles(10)},
		{name: "100", ports: singles(100)},
	}
}

// crowds are those for which Docker's bridge needs minutes, or longer.
func crowds() []load {
	return []load{
		{name: "a range of 1000 TCP", ports: []string{"20000-20999:20000-20999"}, crowd: true, limit: 3 * time.Minute},
		{name: "a range of 10 000 UDP", ports: []string{"20000-29999:20000-29999/udp"}, crowd: true, limit: time.Minute},
	}
}

// shifted is a range that is not one entry of nftables but ten thousand.
func shifted() load {
	return load{name: "10 000 TCP, each to another", ports: []string{"20000-29999:30000-39999"}, crowd: true, limit: time.Minute}
}

// singles are ports of which no two are neighbours.
func singles(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%d:%d", 10000+2*i, 1000+2*i))
	}
	return all
}

// bencher measures on one engine.
type bencher struct {
	*lab.Lab
	*lab.Engine
	t      testing.TB
	during time.Duration // how long connections are counted
	run    *Run
}

// turn makes a network, measures loads on it one after the other, and takes away the
// network and whoever served it: the next turn finds nothing of this one.
func (b *bencher) turn(n network, loads []load) {
	b.t.Helper()
	if n.create == nil {
		b.sample(n, loads[0])
		return
	}
	if n.firewall != "" {
		b.StartDaemon("--firewall=" + n.firewall)
	}
	b.Docker(append(append([]string{"network", "create"}, n.create...), "--subnet", "172.30.1.0/24", "bench")...)
	// It is who answers connections, and warms everything up.
	b.Run("server", "--network", "bench", "-p", "80:80")
	b.Outside.MustReach("tcp", b.server().String(), "server")
	for _, l := range loads {
		if s := b.sample(n, l); s.Overrun != "" {
			return // the engine is busy with it yet, and good for nothing else
		}
	}
	b.Docker("rm", "-f", "server")
	b.Docker("network", "rm", "bench")
	if n.firewall != "" {
		b.StopDaemon()
		if out, err := b.Drawbridge("remove", "--state-dir", filepath.Join(b.Dir(), "drawbridge")); err != nil {
			b.t.Fatalf("remove: %s%v", out, err)
		}
	}
}

// sample measures a load once, and notes it.
func (b *bencher) sample(n network, l load) Sample {
	b.t.Helper()
	s := b.container(n, l)
	b.t.Logf("%s, %s published: %+v", n.name, l.name, s)
	b.run.add(n.name, l.name, s)
	return s
}

// server is where the world reaches what the server published.
func (b *bencher) server() netip.AddrPort { return netip.AddrPortFrom(b.Host.Addr, 80) }

// container starts one that publishes the load, and removes it.
func (b *bencher) container(n network, l load) Sample {
	b.t.Helper()
	on := "bench"
	if n.create == nil {
		on = "none"
	}
	args := []string{"run", "-d", "--name", "loaded", "--network", on}
	for _, p := range l.ports {
		args = append(args, "-p", p)
	}
	var s Sample
	if s.Start, s.Overrun = b.timed(l, append(args, lab.Image)...); s.Overrun != "" {
		return s
	}
	if l.crowd && n.create != nil {
		b.beside(&s)
	}
	s.Removal, s.Overrun = b.timed(l, "rm", "-f", "loaded")
	return s
}

// beside measures what a load costs everybody while it is there.
func (b *bencher) beside(s *Sample) {
	b.t.Helper()
	var err error
	if s.Memory, err = memory(b.Outer("/proc")); err != nil {
		b.t.Fatal(err)
	}
	if s.Connections, err = begin(b.Outside, b.server(), b.during); err != nil {
		b.t.Fatal(err)
	}
}

// timed runs the docker command and returns the milliseconds that it took, or what is
// to be said if it was not done at the load's limit.
func (b *bencher) timed(l load, args ...string) (ms float64, overrun string) {
	b.t.Helper()
	limit := cmp.Or(l.limit, time.Minute)
	start := time.Now()
	_, err := b.TryFor(limit, "docker", args...)
	took := time.Since(start)
	if err != nil && took >= limit {
		return 0, fmt.Sprintf("not ended in %.0f s", limit.Seconds())
	}
	if err != nil {
		b.t.Fatal(errors.New(shorten(err.Error())))
	}
	return tenths(took.Seconds() * 1000), ""
}

// tenths leaves out what is never measured so exactly.
func tenths(x float64) float64 { return math.Round(x*10) / 10 }

// shorten leaves out the middle of a long command.
func shorten(text string) string {
	const most = 600
	if len(text) <= 2*most {
		return text
	}
	return text[:most] + " … " + text[len(text)-most:]
}
