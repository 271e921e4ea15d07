package main

import (
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelServedDriverIsCalledAsItsSocketIs by Docker, which asks for it by that name.
func TestKernelServedDriverIsCalledAsItsSocketIs(t *testing.T) {
	daemon := lab.NewHost(t).Alone() // on plugin.sock
	daemon.MustStart("--firewall=none")
	docker := answering(t, map[string]string{"GET /networks": `[
		{"Id":"a","Name":"its own","Driver":"plugin","Scope":"local"},
		{"Id":"b","Name":"another one's","Driver":"drawbridge","Scope":"local"}]`})
	notes := strings.Join(notesOf(t, daemon.Admin(), docker), "\n")
	if !strings.Contains(notes, "Docker's network its own") || strings.Contains(notes, "another one's") {
		t.Errorf("notices: %s", notes)
	}
}
