package nftables

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestBothTables compares what would be fed to nft; a test in the kernel shows
// that it is what we write.
func TestBothTables(t *testing.T) { golden(t, "tables.nft", script(scene.Everything(t).Plan())) }

// TestTheElementsForAPlan compares all that varies.
func TestTheElementsForAPlan(t *testing.T) {
	forwards := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24")
	forwards.Host.Forwarding4, forwards.Host.Forwarding6 = true, true
	olderKernel := scene.NewWorld(t).Network("a", spec.Network{}, "fd00:30::/64")
	olderKernel.Host.ForceForwarding = false
	for name, w := range map[string]*scene.World{
		"nothing is planned":                 scene.NewWorld(t),
		"a network on a host that forwards":  forwards,
		"a network on a host that does not":  scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64"),
		"IPv6 is forwarded host-wide or not": olderKernel,
		"an internal network":                scene.NewWorld(t).Network("a", spec.Network{Internal: true, Masquerade: true}, "172.30.0.0/24"),
		"a network without masquerade":       scene.NewWorld(t).Network("a", spec.Network{}, "172.30.0.0/24"),
		"networks with ports and an engine":  scene.Everything(t),
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Base(t.Name())+".txt", elementLines(w.Plan()))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
