package main

import (
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/firewall"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelServeTouchesNothingWhereThereCanBeNoFirewall and says what would help.
func TestKernelServeTouchesNothingWhereThereCanBeNoFirewall(t *testing.T) {
	h := lab.NewHost(t)
	t.Setenv("PATH", t.TempDir()+":/nowhere") // without iptables
	for _, row := range []struct{ mode, says string }{
		{"nftables", "load nf_tables, or use --firewall=iptables"},
		{"iptables", "install iptables 1.8 or newer"},
		{"auto", "install iptables 1.8 or newer"},
	} {
		dir := t.TempDir()
		var got result
		h.DoWithoutNetfilter(func() {
			got = drawbridge(t, "serve", "--firewall", row.mode, "--state-dir", filepath.Join(dir, "lib"), "--run-dir", filepath.Join(dir, "run"),
				"--plugin-socket", filepath.Join(dir, "p.sock"), "--admin-socket", filepath.Join(dir, "a.sock"))
		})
		if got.code != exitTrouble || !strings.Contains(got.stderr, row.says) {
			t.Errorf("--firewall=%s: want %q, got %+v", row.mode, row.says, got)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("--firewall=%s: it made %v, %v", row.mode, left, err)
		}
	}
}

// TestKernelRemoveNeedsNoFirewall which could be chosen: what stands goes, whichever it is,
// and the rest even where none can be had any more.
func TestKernelRemoveNeedsNoFirewall(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	for _, row := range []struct {
		name    string
		mode    firewall.Mode
		without bool   // nf_tables, by now
		engine  string // the kind of its rules
	}{
		{"nftables", firewall.NFTables, false, "nft"},
		{"iptables-nft", firewall.IPTables, false, "nft"},
		{"iptables-legacy", firewall.IPTables, false, "legacy"},
		{"nothing by now", firewall.IPTables, true, "legacy"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path, h := os.Getenv("PATH"), lab.NewHost(t)
			h.Run("iptables-"+row.engine, "-t", "nat", "-N", "DOCKER")
			before := h.Snapshot()
			dir := t.TempDir()
			s := settings{sysctls: "/proc/sys", stateDir: filepath.Join(dir, "lib"), runDir: filepath.Join(dir, "run"), firewall: row.mode}
			h.Do(func() { runWithANetwork(t, s) })
			if diff := before.Diff(h.Snapshot()); !strings.Contains(diff, "dbraaaaaaaaaaaa") {
				t.Fatalf("no network was made:\n%s", diff)
			}
			do := h.Do
			if row.without {
				// A host that started anew with another kernel: rules are gone, or not ours to write.
				h.Run("sh", "-ec", "for t in raw mangle nat; do iptables-legacy -t $t -F; iptables-legacy -t $t -X; ip6tables-legacy -t $t -F; ip6tables-legacy -t $t -X; done; iptables-legacy -t nat -N DOCKER")
				t.Setenv("PATH", t.TempDir()+":/nowhere")
				do = h.DoWithoutNetfilter
			}
			var got result
			do(func() {
				got = drawbridge(t, "remove", "--force", "--state-dir", s.stateDir, "--run-dir", s.runDir, "--admin-socket", filepath.Join(dir, "a.sock"))
			})
			t.Setenv("PATH", path)
			if got.code != 0 {
				t.Errorf("%+v", got)
			}
			diff := before.Diff(h.Snapshot())
			for _, left := range []string{"dbr", "DRAWBRIDGE", "drawbridge", "forwarding"} {
				if strings.Contains(diff, left) {
					t.Errorf("of %s is left:\n%s", left, diff)
				}
			}
		})
	}
}

// runWithANetwork is a daemon that makes a network and ends.
func runWithANetwork(t *testing.T, s settings) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	d, err := assemble(context.Background(), s, log)
	if err != nil {
		t.Error(err)
		return
	}
	defer d.close()
	subnet := netip.MustParsePrefix("172.30.0.0/24")
	err = d.engine.Do(context.Background(), "", func(state *spec.State) error {
		return state.AddNetwork(&spec.Network{
			ID: spec.ID(strings.Repeat("a", 24)), InterfacePrefix: "eth", Masquerade: true,
			Pools: []spec.Pool{{Prefix: subnet, Gateway: subnet.Addr().Next()}},
		})
	})
	if err != nil {
		t.Error(err)
	}
}
