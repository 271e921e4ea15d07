package firewalld

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

func TestKernelAFirewalldThatCannotBeToldIsWarnedOf(t *testing.T) {
	l := lab.NewHost(t)
	h := newHost(t)
	h.Zones = New("/nonexistent/socket", h.notes)
	look := func() (warned string) {
		l.Do(func() { h.are("drift", h.check(with("dbr1", "dbr2"))) })
		return strings.Join(h.Warnings(), "\n")
	}
	if got := look(); got != "" {
		t.Errorf("warned without a firewalld: %s", got)
	}
	var told []string
	h.Warn = func(text string) { told = append(told, text) }
	l.Run("nft", "add", "table", "inet", "firewalld")
	for range 2 {
		if got := look(); !strings.Contains(got, "it rejects what leaves dbr1, dbr2") || !strings.Contains(got, "--add-interface=dbr1") {
			t.Errorf("warnings: %q", got)
		}
	}
	if len(told) != 1 {
		t.Errorf("told %q, want it once", told)
	}
	l.Run("nft", "delete", "table", "inet", "firewalld")
	if got := look(); got != "" {
		t.Errorf("warned after it has gone: %s", got)
	}
}
