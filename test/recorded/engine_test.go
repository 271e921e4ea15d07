package recorded

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// programs print an engine's rules.
var programs = map[string][]string{
	"iptables":  {"iptables-save"},
	"ip6tables": {"ip6tables-save"},
	"nft":       {"nft", "list", "ruleset"},
}

func TestEngineRulesAreAsRecorded(t *testing.T) {
	for name, row := range map[string]struct {
		engine   string
		flags    []string
		programs []string
	}{
		Oldest:     {lab.Oldest, []string{"--experimental", "--ip6tables"}, []string{"iptables", "ip6tables"}},
		ByIPTables: {lab.Newest, nil, []string{"iptables", "ip6tables"}},
		ByNFTables: {lab.Newest, []string{"--firewall-backend=nftables", "--ip-forward=false"}, []string{"nft"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for an engine
			lab.EachOf(t, []string{row.engine}, func(t *testing.T, _ string) {
				e := settle(t, row.engine, row.flags)
				address6 := strings.TrimSpace(e.Docker("inspect", "-f", "{{.NetworkSettings.GlobalIPv6Address}}", container))
				for _, program := range row.programs {
					out, err := e.Try(programs[program][0], programs[program][1:]...)
					if err != nil {
						t.Fatal(err)
					}
					// The oldest makes d's address of its MAC.
					golden.Equal(t, file(name, program), strings.ReplaceAll(normal(out), address6, d6()))
				}
			})
		})
	}
}

// container is what an engine calls container d: one letter is too short for it.
const container = "container-d"

// settle has an engine make its bridges and container d.
func settle(t *testing.T, engine string, flags []string) *lab.Engine {
	t.Helper()
	bridges := map[string]reach.Bridge{}
	for _, b := range reach.Bridges() {
		bridges[b.Name] = b
	}
	docker0 := bridges["docker0"].Addresses
	e := lab.New(t).Engine(engine, append(flags, "--bip", docker0[0].String(), "--ipv6", "--fixed-cidr-v6", docker0[1].Masked().String())...)
	for _, name := range []string{"br-second", "br-internal"} {
		addresses := bridges[name].Addresses
		e.Docker("network", "create", fmt.Sprintf("--internal=%t", name == "br-internal"), "--ipv6",
			"--subnet", addresses[0].Masked().String(), "--subnet", addresses[1].Masked().String(),
			"-o", "com.docker.network.bridge.name="+name, name)
	}
	e.Run(container, "-p", fmt.Sprintf("%d:%d", reach.ByEngine, reach.Published))
	return e
}

// d6 is the IPv6 address of container d.
func d6() string {
	for _, m := range reach.Machines() {
		if m.Name == reach.D {
			return m.IPv6.String()
		}
	}
	return ""
}
