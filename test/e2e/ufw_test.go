package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineUfwsDefaultLetsContainersThrough is about Debian's ufw, which drops what is
// routed unless told otherwise.
func TestEngineUfwsDefaultLetsContainersThrough(t *testing.T) {
	eachEngineAfter(t, func(s *site) { warmUpIPv6(s); s.installUfw() }, func(s *site) {
		s.webAndOther()
		s.dockersOwn("docker")
		s.Run("k1", "--network", "docker", "-p", "7070:80")
		s.afterUfw(iptablesNFT, "--force enable")
		for _, f := range both {
			port := join(f.host(s), "8080")
			s.sees("from outside", s.Outside.MustReach("tcp", port, "c1"), f.outside(s))
			s.Host.MustReach("udp", port, "c1")
			for _, container := range []string{"c1", "c2", "d1"} { // itself, a peer, from another network
				s.MustReach(container, "tcp", port, "c1")
			}
			s.MustReach("c2", "tcp", join(f.address(s, "c1", "web"), "80"), "c1")
			s.MustNotReach("d1", "tcp", join(f.address(s, "c1", "web"), "80"), hello.Drop)
		}
		// What ufw denies does not bind containers, neither ours nor Docker's own.
		s.afterUfw(iptablesNFT, "route deny in on eth0", "reload")
		s.Outside.MustReach("tcp", "192.0.2.1:7070", "k1")
		s.withoutUfw(iptablesNFT)
	})
}

// afterUfw has a person run ufw's commands. After each, containers are reached, and
// what ufw wrote is as ufw left it.
func (s *site) afterUfw(tools iptables, commands ...string) {
	s.t.Helper()
	for _, command := range commands {
		s.ufw(strings.Fields(command)...)
		left := s.rulesOfOthers(tools)
		for _, f := range both {
			s.passes(f)
		}
		s.settled()
		if diff := cmp.Diff(left, s.rulesOfOthers(tools)); diff != "" {
			s.t.Errorf("after ufw %s: rules of others (-as left +later):\n%s", command, diff)
		}
	}
}

// withoutUfw has ufw disabled: it sets FORWARD's policy to ACCEPT.
func (s *site) withoutUfw(tools iptables) {
	s.t.Helper()
	s.afterUfw(tools, "disable")
	for _, tool := range tools {
		if rules := s.Host.Run(tool, "-S", "FORWARD"); strings.Contains(rules, "drawbridge network") {
			s.t.Errorf("%s drops nothing any more, and still has accepts of ours:\n%s", tool, rules)
		}
	}
}

// installUfw gives the site a ufw of its own and has it make its chains, which it
// leaves behind when it is disabled.
func (s *site) installUfw() {
	s.t.Helper()
	cache, err := lab.Cache()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.CopyFS(s.ufwRoot(), os.DirFS(filepath.Join(cache, "ufw"))); err != nil {
		s.t.Fatalf("%v: run test/engines/fetch", err)
	}
	s.ufw("--force", "enable")
	s.ufw("disable")
}

func (s *site) ufwRoot() string { return filepath.Join(s.Dir(), "ufw") }

// ufw runs the command on files below a directory of the test's.
func (s *site) ufw(args ...string) {
	s.t.Helper()
	root := s.ufwRoot()
	words := []string{"PYTHONPATH=" + root + "/usr/lib/python3/dist-packages", "/usr/bin/python3", root + "/usr/sbin/ufw", "--rootdir=" + root, "--datadir=" + root}
	if out, err := s.Try("env", append(words, args...)...); err != nil {
		s.t.Fatalf("%s%v", out, err)
	}
}
