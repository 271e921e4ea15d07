// Package docs keeps the pages of docs true that show what a kernel says.
package docs

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/drawbridge-net/drawbridge/firewall/iptables"
	"github.com/drawbridge-net/drawbridge/firewall/nftables"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// layer is what both firewalls are.
type layer interface {
	Apply(ctx context.Context, have, want *plan.Plan) error
}

func TestKernelDocsOfTheFirewallShowItsLiveRules(t *testing.T) {
	native := protect(t, func() (layer, error) { return nftables.New(nftables.Shared) })
	second := protect(t, func() (layer, error) { return iptables.New(iptables.NFT) })
	page := template.Must(template.ParseFiles("testdata/firewall.md"))
	var b strings.Builder
	err := page.Execute(&b, map[string]string{
		"Inet":     tidy(native.Run("nft", "--stateless", "list", "table", "inet", "drawbridge")),
		"Bridge":   tidy(native.Run("nft", "--stateless", "list", "table", "bridge", "drawbridge")),
		"IPTables": saved(second.Run("iptables-nft-save")),
	})
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "../../docs/firewall.md", b.String())
}

// protect puts a firewall up on a host of its own.
func protect(t *testing.T, firewall func() (layer, error)) *lab.Host {
	t.Helper()
	h := lab.NewHost(t)
	p := example(t)
	var err error
	h.Do(func() {
		var l layer
		if l, err = firewall(); err == nil {
			err = l.Apply(context.Background(), nil, p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// example is the host that the page describes.
func example(t *testing.T) *plan.Plan {
	t.Helper()
	w := scene.NewWorld(t)
	w.Host.Engines = []plan.HostLink{{Name: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	return w.
		Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Network("b", spec.Network{Internal: true}, "172.30.1.0/24").
		Network("c", spec.Network{Masquerade: true, Apart: true}, "172.30.2.0/24").
		Endpoint("a", "1", "172.30.0.2/24", "fd00:30::2/64",
			scene.TCP("", 8080, 80, 1), scene.UDP("", 5000, 5000, 11), scene.TCP("127.0.0.1", 9000, 90, 1)).
		Endpoint("c", "2", "172.30.2.2/24", "").
		Plan()
}

var (
	elements = regexp.MustCompile(`elements = \{([^}]*)\}`)
	// empty is a set or map without elements.
	empty = regexp.MustCompile(`\t(?:set|map) \w+ \{\n(?:\t\t(?:type|flags) .*\n)+\t\}\n\n`)
)

// tidy leaves out empty sets, and puts elements, which the kernel gives in no order,
// into one and on one line.
func tidy(table string) string {
	table = elements.ReplaceAllStringFunc(table, func(text string) string {
		all := strings.Split(strings.Join(strings.Fields(elements.FindStringSubmatch(text)[1]), " "), ", ")
		slices.Sort(all)
		return "elements = { " + strings.Join(all, ", ") + " }"
	})
	return strings.ReplaceAll(empty.ReplaceAllString(table, ""), "\t", "    ")
}

var (
	tag      = regexp.MustCompile(`"drawbridge [0-9a-f]{12}: `)
	declared = regexp.MustCompile(`^:(\S+) (\S+) \[\d+:\d+\]$`)
)

// saved leaves out what somebody else would have there too.
func saved(rules string) string {
	var b strings.Builder
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(tag.ReplaceAllString(line, `"`))
		switch chain := declared.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "#"), line == "COMMIT", chain != nil && !strings.HasPrefix(chain[1], "DRAWBRIDGE-"):
			continue
		case strings.HasPrefix(line, "*") && b.Len() > 0:
			line = "\n" + line
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}
