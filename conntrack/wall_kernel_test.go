package conntrack

import (
	"context"
	"os"
	"testing"

	"github.com/drawbridge-net/drawbridge/firewall/iptables"
	"github.com/drawbridge-net/drawbridge/firewall/nftables"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

type applier interface {
	Apply(ctx context.Context, have, want *plan.Plan) error
}

// wall is a firewall of ours, and how somebody takes it away.
type wall struct {
	name  string
	build func(t testing.TB, h *lab.Host) applier
	raze  func(s *street)
}

// walls runs a test behind each.
func walls(t *testing.T, test func(t *testing.T, w wall)) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", os.DevNull) // others' tables are in other namespaces
	for _, w := range []wall{withNftables(), withIptables()} {
		t.Run(w.name, func(t *testing.T) { test(t, w) })
	}
}

func withNftables() wall {
	build := func(t testing.TB, h *lab.Host) applier {
		t.Helper()
		var f *nftables.Firewall
		var err error
		h.Do(func() { f, err = nftables.New() })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		return f
	}
	return wall{"nftables", build, func(s *street) {
		s.t.Helper()
		// A table may be ours alone for as long as its socket is open.
		if f, ok := s.firewall.(*nftables.Firewall); ok {
			f.Close()
		}
		s.Feed("delete table inet drawbridge\ndelete table bridge drawbridge\n", "nft", "-f", "-")
	}}
}

func withIptables() wall {
	build := func(t testing.TB, _ *lab.Host) applier {
		t.Helper()
		f, err := iptables.New(iptables.NFT)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	return wall{"iptables-nft", build, func(s *street) {
		s.t.Helper()
		for _, table := range []string{"raw", "mangle", "nat"} {
			s.Run("iptables-nft", "-t", table, "-F")
			s.Run("ip6tables-nft", "-t", table, "-F")
		}
	}}
}
