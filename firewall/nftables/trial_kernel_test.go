package nftables

import (
	"context"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelATrialLeavesNothing beside tables of ours that stand.
func TestKernelATrialLeavesNothing(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	m.Run("nft", "add", "table", "inet", tableName)
	before := m.Snapshot()
	if err := m.f.Try(context.Background()); err != nil {
		t.Error(err)
	}
	if diff := before.Diff(m.Snapshot()); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
}

// TestKernelATrialHasAllThatWeMayWrite, so that a kernel that takes it takes the rest.
func TestKernelATrialHasAllThatWeMayWrite(t *testing.T) {
	m := newMachine(t, lab.NewHost(t))
	trial := newRulesetIn(trialName)
	before := m.generation()
	if err := m.f.take(context.Background(), trial.specimens(), trial, trial.inet, trial.bridge); err != nil {
		t.Fatal(err)
	}
	if after := m.generation(); after != before+1 {
		t.Errorf("%d transactions, want one", after-before)
	}
	if got, want := len(trial.specimens()), len(newRuleset().sets); got != want {
		t.Errorf("elements for %d of %d sets", got, want)
	}
}
