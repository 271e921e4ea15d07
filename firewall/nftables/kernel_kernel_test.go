package nftables

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// layer is a Firewall in a machine's namespace.
func layer(t testing.TB, h *lab.Host) *Firewall {
	t.Helper()
	var f *Firewall
	var err error
	h.Do(func() { f, err = New() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func TestKernelGoWritesWhatNftReads(t *testing.T) {
	p := everything(t).plan()
	byGo, byNft := lab.NewHost(t), lab.NewHost(t)
	f := layer(t, byGo)
	if err := f.Apply(context.Background(), nil, p); err != nil {
		t.Fatal(err)
	}
	byNft.Feed(script(p), "nft", "-f", "-")
	want := byNft.Run("nft", "list", "table", "inet", tableName)
	got := byGo.Run("nft", "list", "table", "inet", tableName)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-nft +go)\n%s", diff)
	}
	t.Log(got)
	drift, err := f.Check(context.Background(), p)
	t.Log(drift, err)
}
