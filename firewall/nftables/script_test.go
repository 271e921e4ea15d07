package nftables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// script are the tables for a plan in the language of nft: what a person would feed
// to nft -f to get the same.
func script(p *plan.Plan) string {
	r := newRuleset()
	sorted := slices.SortedFunc(maps.Keys(elements(p)), compare)
	return r.script(r.inet, sorted) + r.script(r.bridge, sorted)
}

func (r *ruleset) script(t *table, sorted []element) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s {\n", t)
	for _, s := range t.sets {
		what := "set"
		if len(s.value) > 0 {
			what = "map"
		}
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", what, s.name, s.types())
		if s.interval {
			b.WriteString("\t\tflags interval\n")
		}
		if texts := r.texts(s, sorted); len(texts) > 0 {
			fmt.Fprintf(&b, "\t\telements = {\n\t\t\t%s\n\t\t}\n", strings.Join(texts, ",\n\t\t\t"))
		}
		b.WriteString("\t}\n\n")
	}
	for _, ch := range t.chains {
		fmt.Fprintf(&b, "\tchain %s {\n", ch.name)
		if ch.typ != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", ch.typ, hookName(*ch.hook), ch.priority)
		}
		for _, r := range ch.rules {
			fmt.Fprintf(&b, "\t\t%s comment %q\n", r.text, r.comment)
		}
		b.WriteString("\t}\n\n")
	}
	return b.String() + "}\n"
}

// elementLines are the elements for a plan, one a line.
func elementLines(p *plan.Plan) string {
	var b strings.Builder
	r := newRuleset()
	for _, e := range slices.SortedFunc(maps.Keys(elements(p)), compare) {
		fmt.Fprintf(&b, "%s %s\n", e.set, r.text(e))
	}
	return b.String()
}

func (s *set) types() string {
	text := datatype(s.key).Name
	if len(s.value) > 0 {
		text += " : " + datatype(s.value).Name
	}
	return text
}

func (r *ruleset) texts(s *set, all []element) []string {
	var texts []string
	for _, e := range all {
		if e.set == s.name {
			texts = append(texts, r.text(e))
		}
	}
	return texts
}

func hookName(h nftables.ChainHook) string {
	return []string{"prerouting", "input", "forward", "output", "postrouting"}[h]
}

// world is a State that can be built in one expression.
type world struct {
	t     testing.TB
	state spec.State
	host  plan.Host
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{t: t, host: plan.Host{IPv6: true, ForceForwarding: true, Uplinks: []plan.HostLink{{Name: "eth0"}}}}
}

func (w *world) network(id string, n spec.Network, prefixes ...string) *world {
	w.t.Helper()
	n.ID = id24(id)
	for _, p := range prefixes {
		prefix := netip.MustParsePrefix(p)
		n.Pools = append(n.Pools, spec.Pool{Prefix: prefix, Gateway: prefix.Addr().Next()})
	}
	if err := w.state.AddNetwork(&n); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *world) endpoint(network, id string, addr4, addr6 string, ports ...spec.Port) *world {
	w.t.Helper()
	ep := spec.Endpoint{ID: id24(id), Ports: ports}
	if addr4 != "" {
		ep.IPv4 = netip.MustParsePrefix(addr4)
	}
	if addr6 != "" {
		ep.IPv6 = netip.MustParsePrefix(addr6)
	}
	if err := w.state.AddEndpoint(id24(network), &ep); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// open is endpoint, with ports that the network's mode does not translate.
func (w *world) open(network, id string, addr4, addr6 string, ports ...spec.Port) *world {
	w.t.Helper()
	ep := spec.Endpoint{ID: id24(id), IPv4: netip.MustParsePrefix(addr4), IPv6: netip.MustParsePrefix(addr6), Open: ports}
	if err := w.state.AddEndpoint(id24(network), &ep); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *world) plan() *plan.Plan {
	host := w.host
	return plan.New(w.state, &host)
}

// id24 makes an ID of a short name.
func id24(name string) spec.ID { return spec.ID(strings.Repeat(name, 24)[:24]) }

func tcp(host string, hostPort, containerPort, count uint16) spec.Port {
	return port(spec.TCP, host, hostPort, containerPort, count)
}

func udp(host string, hostPort, containerPort, count uint16) spec.Port {
	return port(spec.UDP, host, hostPort, containerPort, count)
}

func port(proto spec.Proto, host string, hostPort, containerPort, count uint16) spec.Port {
	p := spec.Port{Proto: proto, HostPort: hostPort, ContainerPort: containerPort, Count: count}
	if host != "" {
		p.Host = netip.MustParseAddr(host)
	}
	return p
}

// everything is a world in which no set is empty.
func everything(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{
		netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd17::/64"),
	}}}
	w.host.Uplinks = append(w.host.Uplinks, plan.HostLink{Name: "wg0"})
	return w.
		network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		network("b", spec.Network{Masquerade: true}, "172.30.1.0/24").
		network("c", spec.Network{Internal: true}, "172.30.2.0/24").
		network("d", spec.Network{Mode4: spec.Unprotected, Mode6: spec.Unprotected}, "172.30.3.0/24", "fd00:33::/64").
		network("7", spec.Network{
			Masquerade: true, Apart: true, Trusted: []string{"wg0"},
			Source4: netip.MustParseAddr("192.0.2.7"), Source6: netip.MustParseAddr("2001:db8:1::7"),
		}, "172.30.4.0/24", "fd00:34::/64").
		network("8", spec.Network{Masquerade: true, Mode4: spec.Routed, Mode6: spec.Routed}, "172.30.5.0/24", "fd00:35::/64").
		endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			tcp("", 8080, 80, 1), udp("", 5000, 5000, 11), tcp("192.0.2.1", 443, 443, 1), tcp("2001:db8:1::1", 443, 8443, 1),
			udp("192.0.2.1", 6000, 6000, 2), tcp("2001:db8:1::1", 6000, 6000, 2)).
		endpoint("b", "f", "172.30.1.2/24", "", tcp("127.0.0.1", 9000, 90, 1)).
		endpoint("7", "6", "172.30.4.2/24", "fd00:34::2/64", tcp("", 8081, 80, 1)).
		open("8", "5", "172.30.5.2/24", "fd00:35::2/64", tcp("", 0, 80, 1), udp("", 0, 5000, 11))
}
