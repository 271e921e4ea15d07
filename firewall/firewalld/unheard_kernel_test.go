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
	want := with("dbr1", "web0")
	named, _ := want.Networks.Get("network of web0")
	named.Bridge.Named = true
	look := func() (warned string) {
		l.Do(func() { h.are("drift", h.check(want)) })
		return strings.Join(h.Warnings(), "\n")
	}
	if got := look(); got != "" {
		t.Errorf("warned without a firewalld: %s", got)
	}
	var told []string
	h.Warn = func(text string) { told = append(told, text) }
	l.Run("nft", "add", "table", "inet", "firewalld")
	const what = "it rejects what leaves dbr1, web0, unless you bind them: "
	const commands = "firewall-cmd --zone=trusted --add-interface=dbr1; firewall-cmd --zone=trusted --add-interface=web0; " +
		"firewall-cmd --permanent --zone=trusted --add-interface=web0"
	for range 2 {
		if got := look(); !strings.HasSuffix(got, what+commands) {
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
