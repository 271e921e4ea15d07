package spec_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/drawbridge-net/drawbridge/spec"
)

func TestAnyHistoryKeepsTheStateSound(t *testing.T) {
	networks := []spec.ID{web, db, "aaaaaaaaaaaabbbbbbbbbbbb0", "aaaaaaaaaaaacccccccccccc0"}
	endpoints := []spec.ID{c1, c2, c3, "ccccccccccccaaaaaaaaaaaa0"} // its second name is a network's
	rapid.Check(t, func(t *rapid.T) {
		s := spec.State{}
		change := func(do func(*spec.State) error) {
			before, next := s, s
			if do(&next) == nil {
				s = next
			}
			checkState(t, &before) // whatever was done, and whether or not it was refused
			checkState(t, &s)
		}
		pick := func(from []spec.ID) spec.ID { return rapid.SampledFrom(from).Draw(t, "id") }
		t.Repeat(map[string]func(*rapid.T){
			"add a network": func(t *rapid.T) {
				n := rapid.IntRange(1, 3).Draw(t, "subnet")
				change(func(s *spec.State) error {
					return s.AddNetwork(network(pick(networks), fmt.Sprintf("10.%d.0.0/24", n), fmt.Sprintf("fd00:%d::/64", n)))
				})
			},
			"remove a network": func(*rapid.T) {
				change(func(s *spec.State) error { s.RemoveNetwork(pick(networks)); return nil })
			},
			"add an endpoint": func(t *rapid.T) {
				n, a := rapid.IntRange(1, 3).Draw(t, "subnet"), rapid.IntRange(2, 4).Draw(t, "host")
				addrs := []string{fmt.Sprintf("10.%d.0.%d/24", n, a)}
				if rapid.Bool().Draw(t, "dual") {
					addrs = append(addrs, fmt.Sprintf("fd00:%d::%d/64", n, a))
				}
				change(func(s *spec.State) error { return s.AddEndpoint(pick(networks), endpoint(pick(endpoints), addrs...)) })
			},
			"remove an endpoint": func(*rapid.T) {
				change(func(s *spec.State) error { s.RemoveEndpoint(pick(networks), pick(endpoints)); return nil })
			},
			"join": func(t *rapid.T) {
				change(func(s *spec.State) error {
					return s.Join(pick(networks), pick(endpoints), rapid.SampledFrom([]string{"/a", "/b"}).Draw(t, "sandbox"))
				})
			},
			"leave": func(*rapid.T) {
				change(func(s *spec.State) error { s.Leave(pick(networks), pick(endpoints)); return nil })
			},
			"publish": func(t *rapid.T) {
				ports := rapid.SliceOfN(anyPort(), 0, 4).Draw(t, "ports")
				change(func(s *spec.State) error { return s.Publish(pick(networks), pick(endpoints), ports, false) })
			},
			"unpublish": func(*rapid.T) {
				change(func(s *spec.State) error { s.Unpublish(pick(networks), pick(endpoints)); return nil })
			},
		})
		checkFree(t, &s)
	})
}

// anyPort is a port or a range between 80 and 90 on one of few addresses, so that
// clashes are many.
func anyPort() *rapid.Generator[spec.Port] {
	return rapid.Custom(func(t *rapid.T) spec.Port {
		host := rapid.SampledFrom([]string{"", "0.0.0.0", "::", "10.0.0.1", "127.0.0.1", "fd00::9"}).Draw(t, "host")
		p := spec.Port{
			Proto:         rapid.SampledFrom([]spec.Proto{spec.TCP, spec.UDP}).Draw(t, "proto"),
			HostPort:      rapid.Uint16Range(80, 90).Draw(t, "port"),
			ContainerPort: rapid.Uint16Range(80, 90).Draw(t, "container port"),
			Count:         rapid.Uint16Range(1, 3).Draw(t, "count"),
		}
		if host != "" {
			p.Host = netip.MustParseAddr(host)
		}
		return p
	})
}

func TestJoinPortsKeepsEveryPortAndMakesAsFewRangesAsItCan(t *testing.T) {
	type single struct {
		proto           spec.Proto
		host            netip.Addr
		port, container uint16
	}
	singles := func(ports []spec.Port) map[single]bool {
		all := map[single]bool{}
		for _, p := range ports {
			for i := range p.Count {
				all[single{p.Proto, p.Host, p.HostPort + i, p.ContainerPort + i}] = true
			}
		}
		return all
	}
	rapid.Check(t, func(t *rapid.T) {
		ports := rapid.SliceOfN(anyPort(), 0, 8).Draw(t, "ports")
		clash := false
		for i, p := range ports {
			clash = clash || slices.ContainsFunc(ports[:i], func(q spec.Port) bool { return p != q && overlap(p, q) })
		}
		joined, err := spec.JoinPorts(ports)
		if (err != nil) != clash {
			t.Fatalf("%v overlap: %t, but %v", ports, clash, err)
		}
		if err != nil {
			return
		}
		before, after := singles(ports), singles(joined)
		if len(before) != len(after) {
			t.Fatalf("%v became %v", ports, joined)
		}
		for one := range before {
			if !after[one] {
				t.Fatalf("%v is lost: %v became %v", one, ports, joined)
			}
		}
		again, err := spec.JoinPorts(joined)
		if err != nil || !slices.Equal(again, joined) {
			t.Fatalf("joined twice: %v, then %v, %v", joined, again, err)
		}
		shuffled := slices.Clone(ports)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		other, err := spec.JoinPorts(shuffled)
		if err != nil || !slices.Equal(other, joined) {
			t.Fatalf("in another order: %v, then %v, %v", joined, other, err)
		}
	})
}

// TestAWishGetsTheFirstNumberThatIsFree compares the search with one that looks at each
// port that anybody has.
func TestAWishGetsTheFirstNumberThatIsFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := spec.State{}
		if err := s.AddNetwork(network(web, "10.1.0.0/24", "fd00:1::/64")); err != nil {
			t.Fatal(err)
		}
		var held []spec.Port
		for i, id := range []spec.ID{c1, c2, c3} {
			if err := s.AddEndpoint(web, endpoint(id, fmt.Sprintf("10.1.0.%d/24", i+2), fmt.Sprintf("fd00:1::%d/64", i+2))); err != nil {
				t.Fatal(err)
			}
			ports := rapid.SliceOfN(anyPort(), 0, 4).Draw(t, "held")
			if next := s; id != c3 && next.Publish(web, id, ports, false) == nil {
				s, held = next, append(held, ports...)
			}
		}
		first := rapid.Uint16Range(78, 88).Draw(t, "first")
		last := rapid.Uint16Range(first, 92).Draw(t, "last")
		busy := rapid.SliceOf(rapid.Uint16Range(78, 92)).Draw(t, "busy")
		hosts := rapid.SampledFrom([][]string{{""}, {"0.0.0.0", "::"}, {"10.0.0.1", "fd00::9"}, {"127.0.0.1"}, {"::"}}).Draw(t, "hosts")
		f := &spec.Finder{Ephemeral: []spec.PortRange{{First: first, Last: last}}, Reserve: func(ports []spec.Port) error {
			if slices.Contains(busy, ports[0].HostPort) {
				return spec.ErrInUse
			}
			return nil
		}}
		var m spec.PortMap
		for _, host := range hosts {
			w := spec.Wish{Port: spec.Port{Proto: spec.TCP, ContainerPort: 7, Count: 1}}
			if host != "" {
				w.Host = netip.MustParseAddr(host)
			}
			if rapid.Bool().Draw(t, "ephemeral") {
				f.Start = rapid.Uint16Range(0, first).Draw(t, "start")
			} else {
				w.Range = f.Ephemeral[0]
			}
			if len(m.Wishes) > 0 {
				w.Range = m.Wishes[0].Range
			}
			m.Wishes = append(m.Wishes, w)
		}
		want := uint16(0)
		for n := first; n <= last && want == 0; n++ {
			free := !slices.Contains(busy, n)
			for _, w := range m.Wishes {
				p := w.Port
				p.HostPort = n
				free = free && !slices.ContainsFunc(held, func(q spec.Port) bool { return overlap(p, q) })
			}
			if free {
				want = n
			}
		}
		ports, err := s.Choose(web, c3, m, f)
		if want == 0 && errors.Is(err, spec.ErrInUse) {
			return
		}
		if err != nil || len(ports) != len(hosts) || slices.ContainsFunc(ports, func(p spec.Port) bool { return p.HostPort != want }) {
			t.Fatalf("want number %d beside %v, got %v, %v", want, held, ports, err)
		}
	})
}
