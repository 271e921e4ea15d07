package iptables

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelTheKindIsThatOfTheEngine also before there is one, so that a host that starts
// is given what the next start of the daemon would choose.
func TestKernelTheKindIsThatOfTheEngine(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", os.DevNull)
	path := os.Getenv("PATH")
	for _, row := range []struct {
		name    string
		engines []string
		bare    string // what the bare command is
		want    string
	}{
		{"an engine of the other kind than the bare command", []string{Legacy}, NFT, Legacy},
		{"likewise the other way round", []string{NFT}, Legacy, NFT},
		{"no engine yet", nil, Legacy, Legacy},
		{"no engine yet, on most hosts", nil, NFT, NFT},
		{"rules of an engine in both", []string{NFT, Legacy}, Legacy, Legacy},
		{"no bare command that tells", nil, "1.6.1", NFT},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := lab.NewHost(t)
			for _, kind := range row.engines {
				h.Run("iptables-"+kind, "-t", "nat", "-N", "DOCKER")
			}
			dir, script := t.TempDir(), "exec iptables-"+row.bare+" \"$@\"\n"
			if row.bare != NFT && row.bare != Legacy {
				script = "echo iptables v" + row.bare + "\n"
			}
			if err := os.WriteFile(filepath.Join(dir, "iptables"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+path)
			h.Do(func() {
				f, err := Find(context.Background())
				if err != nil || f.Kind() != row.want {
					t.Errorf("want %s, got %+v, %v", row.want, f, err)
				}
			})
		})
	}
}
