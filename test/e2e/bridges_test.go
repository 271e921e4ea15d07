package e2e

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// TestEngineBridgesOfOthersGoOnBesideUs is about guests of libvirt's and LXD's, with the
// rules that these write for their own bridges, and containers of an overlay network:
// all that they reach and are reached by is the same with us and without, and our
// containers are to them what they are to any neighbour of the host.
func TestEngineBridgesOfOthersGoOnBesideUs(t *testing.T) {
	eachSite(t, nil, func(s *site) {
		guests := s.guests()
		s.Docker("swarm", "init", "--advertise-addr", s.Host.Addr.String())
		s.Docker("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.0.9.0/24", "over")
		s.Run("o1", "--network", "over", "-p", "7070:80")
		s.Run("o2", "--network", "over")

		theirs := map[string]string{
			"192.168.122.2:80": "libvirt's guest", "10.0.8.2:80": "LXD's", "[fd42:8::2]:80": "LXD's by IPv6",
			"192.168.122.1:80": "the host by virbr0", join(lab.Internet, "80"): "the world", join(lab.Internet6, "80"): "the world by IPv6",
			s.address("o1", "over") + ":80": "o1", s.address("o2", "over") + ":80": "o2", s.Host.Addr.String() + ":7070": "what o1 publishes",
		}
		s.policy("DROP", "DROP")
		dropping := s.outcomes(guests, theirs)
		s.policy("ACCEPT", "ACCEPT")
		accepting := s.outcomes(guests, theirs)
		for question, want := range map[string]string{
			"v1 -> the world": "accept outside", "l1 -> the world": "accept outside", "o1 -> the world": "accept outside", "o1 -> o2": "accept o2",
			"outside -> what o1 publishes": "accept o1", "neighbour -> libvirt's guest": "refuse", "host -> libvirt's guest": "accept v1",
		} {
			if accepting[question] != want {
				s.t.Fatalf("without us, %s: want %s, got %q", question, want, accepting[question])
			}
		}

		s.StartDaemon()
		s.webAndOther()
		for policy, without := range map[string]map[string]string{"ACCEPT": accepting, "DROP": dropping} {
			s.policy(policy, policy)
			s.settled()
			if diff := cmp.Diff(without, s.outcomes(guests, theirs)); diff != "" {
				s.t.Errorf("FORWARD's policy is %s: what others reach (-without us +with us):\n%s", policy, diff)
			}
			s.closedToGuests(guests)
			reached := s.askAll("c1", theirs)
			if got := reached["192.168.122.2:80"]; got != "refuse" {
				s.t.Errorf("libvirt's guest is closed to neighbours, and to c1: %s", got)
			}
			if got := reached["10.0.8.2:80"]; got != "accept l1" {
				s.t.Errorf("LXD's guest is open, and to c1: %s", got)
			}
		}
	})
}

// closedToGuests is about our containers, to whom guests are as anybody else.
func (s *site) closedToGuests(guests map[string]*lab.Host) {
	s.t.Helper()
	for question, got := range s.outcomes(guests, map[string]string{
		s.address("c1", "web") + ":80": "c1", join(s.address6("c1", "web"), "80"): "c1 by IPv6", s.Host.Addr.String() + ":8080": "what c1 publishes",
	}) {
		open := strings.HasSuffix(question, "publishes") || strings.HasPrefix(question, "host ")
		if reached := got == "accept c1"; reached != open {
			s.t.Errorf("%s: %s", question, got)
		}
	}
}

// guests are machines behind bridges of libvirt's and of LXD's: v1 and l1. What libvirt
// writes for them is, up to version 10.3, iptables' rules, and nftables' from then on.
func (s *site) guests() map[string]*lab.Host {
	s.t.Helper()
	rules := func(name, command string, args ...string) {
		s.t.Helper()
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			s.t.Fatal(err)
		}
		s.Host.Feed(string(text), command, args...)
	}
	town := &scene.Town{Lab: s.Lab, T: s.t}
	town.Bridge("virbr0", netip.MustParsePrefix("192.168.122.1/24"))
	town.Bridge("lxdbr0", netip.MustParsePrefix("10.0.8.1/24"), netip.MustParsePrefix("fd42:8::1/64"))
	if s.Version() == lab.Oldest {
		rules("libvirt.iptables", "iptables-nft-restore", "--noflush")
	} else {
		rules("libvirt.nft", "nft", "-f", "-")
	}
	rules("lxd.nft", "nft", "-f", "-")
	for _, to := range []string{"192.168.122.0/24", "10.0.8.0/24", "fd42:8::/64", "172.30.0.0/16", "fd00:30::/31"} {
		s.Neighbour.Route(netip.MustParsePrefix(to), s.Host)
	}
	return map[string]*lab.Host{
		"v1": town.Container("v1", "virbr0", "192.168.122.2/24"),
		"l1": town.Container("l1", "lxdbr0", "10.0.8.2/24", "fd42:8::2/64"),
	}
}

// outcomes asks everything, of guests, containers of the overlay network and others.
func (s *site) outcomes(guests map[string]*lab.Host, targets map[string]string) map[string]string {
	s.t.Helper()
	all := census{}
	for _, client := range []string{"o1", "host", "outside", "neighbour"} {
		all[client] = targets
	}
	answers := map[string]string{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for name, h := range guests {
		asking.Go(func() {
			for address, got := range askFrom(h, targets) {
				mu.Lock()
				answers[name+" -> "+targets[address]] = got
				mu.Unlock()
			}
		})
	}
	others := all.outcomes(s)
	asking.Wait()
	maps.Copy(answers, others)
	return answers
}
