package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestOneDaemonANetworkNamespace(t *testing.T) {
	name := fmt.Sprintf("@drawbridge-test-%d", os.Getpid())
	first, err := claim(name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = claim(name)
	if root := os.Getuid() == 0; root != (err != nil && strings.Contains(err.Error(), "another drawbridge")) {
		t.Errorf("the second, as root %v: %v", root, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claim(name)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	again.Close()
}

// TestNobodyElseKeepsADaemonOut has an unprivileged process take the name first.
func TestNobodyElseKeepsADaemonOut(t *testing.T) {
	if name := os.Getenv("DRAWBRIDGE_TEST_TAKES"); name != "" {
		if _, err := claim(name); err != nil {
			t.Fatal(err)
		}
		fmt.Println("taken")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	if os.Getuid() != 0 {
		return // then all that this process could claim is nobody's
	}
	name := fmt.Sprintf("@drawbridge-test-nobody-%d", os.Getpid())
	squatter := exec.Command("/proc/self/exe", "-test.run=^TestNobodyElseKeepsADaemonOut$")
	squatter.Env = []string{"DRAWBRIDGE_TEST_TAKES=" + name}
	squatter.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, err := squatter.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := squatter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := squatter.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = squatter.Wait()
	}()
	said := make([]byte, len("taken"))
	if _, err := stdout.Read(said); err != nil || string(said) != "taken" {
		t.Fatalf("the squatter said %q, %v", said, err)
	}
	if _, err := claim(name); err != nil {
		t.Errorf("somebody unprivileged keeps the daemon out: %v", err)
	}
}
