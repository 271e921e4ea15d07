package link_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drawbridge-net/drawbridge/link"
)

func TestNameServersAreReadAsTheResolverReadsThem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(file, []byte("# nameserver 9.9.9.9\nsearch example.org\nnameserver 192.168.1.1\n nameserver fe80::1%eth0\nnameserver none\nnameserver\n"), 0o600))
	list, err := link.NameServers(file)
	must(t, err)
	var got []string
	for _, o := range list {
		got = append(got, o.Prefix.String())
	}
	if want := []string{"192.168.1.1/32", "fe80::1/128"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if list, err := link.NameServers(file + ".missing"); err != nil || list != nil {
		t.Errorf("a host without the file has none: %v, %v", list, err)
	}
}
