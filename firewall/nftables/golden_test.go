package nftables

import (
	"path/filepath"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestBothTables compares what would be fed to nft; a test in the kernel shows
// that it is what we write.
func TestBothTables(t *testing.T) {
	golden.Equal(t, "testdata/tables.nft", script(scene.Everything(t).Plan()))
}

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
		"a bridge with a LAN behind it":      scene.Lan(t),
		"networks with ports and an engine":  scene.Everything(t),
	} {
		t.Run(name, func(t *testing.T) {
			golden.Equal(t, filepath.Join("testdata", filepath.Base(t.Name())+".txt"), elementLines(w.Plan()))
		})
	}
}
