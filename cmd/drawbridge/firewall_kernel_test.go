package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
