package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// A feature is something of Docker's that not every engine has. An engine has it if
// its API is of that version 1.n or later.
type feature struct {
	name  string
	since int // e.g. 48 for 1.48, which came with engine 28.0
}

// The features on which scenarios depend; see docs/version-history.md of
// github.com/moby/moby/api. What the last one brought is no part of the API: remote
// drivers are heeded since then.
var (
	perNetworkMAC   = feature{"a MAC address for each network", 44}
	endpointSysctls = feature{"sysctls of an endpoint", 46}
	gatewayPriority = feature{"gw-priority", 48}
	withoutIPv4     = feature{"networks without IPv4", 48}
	directAccess    = feature{"gateway modes and trusted interfaces of Docker's own", 50}
	announcements   = feature{"announcements of addresses", 48}
	laterFlags      = feature{"--firewall-backend", 52}
	interfaceName   = feature{"exact names of interfaces", 56}
)

// apis are the versions of the engines' APIs.
var apis = map[string]int{lab.Oldest: 41, lab.Newest: 56}

// needs are the scenarios that not every engine can show, with what it takes. All
// others are shown on every engine, and nothing is skipped for another reason.
var needs = map[string]feature{
	"TestEngineAnnouncesAddressesAsOftenAsTold":            announcements,
	"TestEngineExamplesOfTheDocsWork":                      interfaceName,
	"TestEngineFlagsOfLaterEnginesHold":                    laterFlags,
	"TestEngineChangesItsOwnFirewall":                      laterFlags,
	"TestEngineDockersNFTNetworksStayAsClosed":             laterFlags,
	"TestEngineOptionsTogetherDoWhatTheyDoOnDockersBridge": directAccess,
	"TestEngineTheTableHoldsBesideNftables":                laterFlags,
	"TestEngineEachNetworkHasTheMACAskedFor":               perNetworkMAC,
	"TestEngineGatewayPriorityDecides":                     gatewayPriority,
	"TestEngineEachFamilyHasItsOwnGateway":                 gatewayPriority,
	"TestEngineNetworksWithoutIPv4":                        withoutIPv4,
	"TestEngineInterfacesHaveTheNamesAskedFor":             interfaceName,
	"TestEngineAContainerWithoutIPv6GivesItsAddressBack":   endpointSysctls,
	"TestEngineSysctlsOfAnEndpointHold":                    endpointSysctls,
	"TestEngineFamiliesCanBeOptions":                       withoutIPv4,
	"TestEngineNetworksOfNeitherFamilyCarryFrames":         withoutIPv4,
	"TestEngineTwoGatewaysOfOneContainerShareItsPorts":     gatewayPriority,
}

// shownOn lists the engines that can show a scenario.
func shownOn(scenario string) []string {
	var able []string
	for _, engine := range []string{lab.Oldest, lab.Newest} {
		if apis[engine] >= needs[scenario].since {
			able = append(able, engine)
		}
	}
	return able
}

// TestWhichEngineShowsWhat prints the table.
func TestWhichEngineShowsWhat(t *testing.T) {
	all := scenarios(t)
	for scenario, need := range needs {
		if !slices.Contains(all, scenario) {
			t.Errorf("the table names %s, which does not exist", scenario)
		}
		if got := shownOn(scenario); !slices.Equal(got, []string{lab.Newest}) {
			t.Errorf("%s needs %s, which %q have: want the newest engine and no other", scenario, need.name, got)
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "scenario\t%s\t%s\n", lab.Oldest, lab.Newest)
	for _, scenario := range all {
		oldest := "shown"
		if need, ok := needs[scenario]; ok {
			oldest = fmt.Sprintf("needs %s, API 1.%d", need.name, need.since)
		}
		fmt.Fprintf(w, "%s\t%s\tshown\n", strings.TrimPrefix(scenario, "TestEngine"), oldest)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
}

// scenarios are the names of all tests here that need an engine.
func scenarios(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range source.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "TestEngine") {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

func TestEngineVersionsAreThoseOfTheTable(t *testing.T) {
	for _, engine := range slices.Sorted(maps.Keys(apis)) {
		want := fmt.Sprintf("1.%d", apis[engine])
		if got := strings.TrimSpace(lab.New(t).Engine(engine).Docker("version", "--format", "{{.Server.APIVersion}}")); got != want {
			t.Errorf("engine %s speaks version %s of Docker's API, the table says %s", engine, got, want)
		}
	}
}
