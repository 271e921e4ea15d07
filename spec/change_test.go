package spec_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// TestRevertTakesOneChangeOutOfOthers: a State on which one change was made and then another
// is, without the first, as if there had only been the other.
func TestRevertTakesOneChangeOutOfOthers(t *testing.T) {
	type change = func(*spec.State) error
	const a, b = spec.ID("aaaaaaaaaaaaaaaaaaaaaaaa"), spec.ID("bbbbbbbbbbbbbbbbbbbbbbbb")
	network := func(id spec.ID, subnet string) change {
		return func(s *spec.State) error {
			p := netip.MustParsePrefix(subnet)
			return s.AddNetwork(&spec.Network{ID: id, InterfacePrefix: "eth", Pools: []spec.Pool{{Prefix: p, Gateway: p.Addr().Next()}}})
		}
	}
	endpoint := func(id spec.ID, addr string) change {
		return func(s *spec.State) error {
			ep := &spec.Endpoint{ID: id, IPv4: netip.MustParsePrefix(addr)}
			ep.MAC = spec.EndpointMAC(a, ep)
			return s.AddEndpoint(a, ep)
		}
	}
	publish := func(id spec.ID, port uint16) change {
		return func(s *spec.State) error {
			return s.Publish(a, id, []spec.Port{{Proto: spec.TCP, HostPort: port, ContainerPort: 80, Count: 1}}, false)
		}
	}
	join := func(id spec.ID) change { return func(s *spec.State) error { return s.Join(a, id, "/ns/"+string(id)) } }
	remove := func(id spec.ID) change { return func(s *spec.State) error { s.RemoveEndpoint(a, id); return nil } }
	removeNetwork := func(id spec.ID) change { return func(s *spec.State) error { s.RemoveNetwork(id); return nil } }
	const one, two, three = spec.ID("111111111111111111111111"), spec.ID("222222222222222222222222"), spec.ID("333333333333333333333333")
	start := []change{network(a, "10.1.0.0/24"), endpoint(one, "10.1.0.2/24"), publish(one, 80), join(one), endpoint(two, "10.1.0.3/24")}

	for name, row := range map[string]struct{ failed, other change }{
		"an endpoint that was added":                  {endpoint(three, "10.1.0.4/24"), publish(two, 81)},
		"a network that was added":                    {network(b, "10.2.0.0/24"), remove(two)},
		"an endpoint that was removed":                {remove(one), endpoint(three, "10.1.0.4/24")},
		"a port that became another":                  {publish(one, 81), publish(two, 82)},
		"a sandbox that was joined":                   {join(two), publish(two, 82)},
		"a network that was removed":                  {removeNetwork(a), network(b, "10.2.0.0/24")},
		"an endpoint that somebody else removed, too": {publish(two, 82), removeNetwork(a)},
	} {
		t.Run(name, func(t *testing.T) {
			state := func(changes ...change) spec.State {
				t.Helper()
				var s spec.State
				for _, c := range changes {
					if err := c(&s); err != nil {
						t.Fatal(err)
					}
				}
				return s
			}
			before := state(start...)
			after := before
			if err := row.failed(&after); err != nil {
				t.Fatal(err)
			}
			both := after
			if err := row.other(&both); err != nil {
				t.Fatal(err)
			}
			both.Revert(before, after)
			want := before
			if err := row.other(&want); err != nil {
				t.Fatal(err)
			}
			checkState(t, &both)
			if got, want := textOf(both), textOf(want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// textOf tells all of a State that a change can make another.
func textOf(s spec.State) string {
	var b strings.Builder
	for id, n := range s.Networks.All() {
		fmt.Fprintln(&b, "network", id.Short(), n.Pools)
		for _, ep := range n.Endpoints.All() {
			fmt.Fprintf(&b, "endpoint %+v\n", *ep)
		}
	}
	return b.String()
}

func TestRevertLeavesWhatSomebodyElseHasByNow(t *testing.T) {
	const a, one, two = spec.ID("aaaaaaaaaaaaaaaaaaaaaaaa"), spec.ID("111111111111111111111111"), spec.ID("222222222222222222222222")
	p := netip.MustParsePrefix("10.1.0.0/24")
	var before spec.State
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	port := func(n uint16) []spec.Port {
		return []spec.Port{{Proto: spec.TCP, HostPort: n, ContainerPort: 80, Count: 1}}
	}
	must(before.AddNetwork(&spec.Network{ID: a, InterfacePrefix: "eth", Pools: []spec.Pool{{Prefix: p, Gateway: p.Addr().Next()}}}))
	for id, addr := range map[spec.ID]string{one: "10.1.0.2/24", two: "10.1.0.3/24"} {
		must(before.AddEndpoint(a, &spec.Endpoint{ID: id, IPv4: netip.MustParsePrefix(addr), MAC: spec.MAC{2, 0, 0, 0, 0, addr[7]}}))
	}
	must(before.Publish(a, one, port(80), false))
	after := before
	must(after.Publish(a, one, port(81), false))
	now := after
	must(now.Publish(a, two, port(80), false))
	now.Revert(before, after)
	checkState(t, &now)
	_, first, err := now.Endpoint(a, one)
	must(err)
	_, second, err := now.Endpoint(a, two)
	must(err)
	if len(first.Ports) != 0 || len(second.Ports) != 1 {
		t.Errorf("ports %v and %v, want none and 80", first.Ports, second.Ports)
	}
}
