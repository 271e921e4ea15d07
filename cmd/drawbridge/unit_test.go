package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const unitFile = "../../packaging/drawbridge.service"

// TestUnitIsNoMoreExposedThanIsTold where systemd is there to be asked, and can say so of a
// file, as from version 251 on.
func TestUnitIsNoMoreExposedThanIsTold(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	told := regexp.MustCompile(`exposure level of (\d+\.\d)`).FindSubmatch(page)
	if told == nil {
		t.Fatal("docs/install.md tells no exposure level")
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", unitFile).CombinedOutput()
	if err != nil {
		t.Logf("it cannot be asked for: %v: %s", err, out)
		return
	}
	found := regexp.MustCompile(`Overall exposure level for \S+: (\d+\.\d)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("no exposure level in: %s", out)
	}
	if number(t, found[1]) > number(t, told[1]) {
		t.Errorf("exposure level %s, docs/install.md says %s:\n%s", found[1], told[1], out)
	}
}

func number(t *testing.T, text []byte) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestEachCapabilityOfTheUnitIsExplained to those who wonder.
func TestEachCapabilityOfTheUnitIsExplained(t *testing.T) {
	unit, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"CapabilityBoundingSet", "RestrictAddressFamilies", "ReadWritePaths"} {
		values := regexp.MustCompile(`(?m)^` + setting + `=(.*)$`).FindSubmatch(unit)
		if values == nil {
			t.Fatalf("the unit has no %s", setting)
		}
		for _, value := range strings.Fields(string(values[1])) {
			if !strings.Contains(string(page), "`"+value+"`") {
				t.Errorf("docs/install.md does not say what %s=%s is for", setting, value)
			}
		}
	}
}
