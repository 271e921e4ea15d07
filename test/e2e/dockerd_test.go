package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// TestEngineAnnouncesAddressesAsOftenAsTold counts how often neighbours are told of a
// new container: questions for an address that come from that address.
//
// The addresses are Docker's own here. Those of a plugin the engine has in another form,
// of which it writes the first four bytes: 0.0.0.0 (libnetwork/internal/l2disco).
func TestEngineAnnouncesAddressesAsOftenAsTold(t *testing.T) {
	eachEngine(t, func(s *site) {
		const often, pause = "com.docker.network.advertise_addr_nmsgs=", "com.docker.network.advertise_addr_ms=100"
		s.Host.Run("nft", "add table bridge announced; add chain bridge announced heard { type filter hook prerouting priority 0; }")
		defer s.Host.Run("nft", "delete", "table", "bridge", "announced")
		for i, times := range []string{"0", "2"} {
			name, address := "told"+times, fmt.Sprintf("172.30.%d.2", i)
			s.Host.Run("nft", "add rule bridge announced heard arp saddr ip", address, "arp daddr ip", address, "counter")
			s.Docker("network", "create", "-d", "drawbridge", "--subnet", fmt.Sprintf("172.30.%d.0/24", i), "-o", often+times, "-o", pause, name)
			s.Run(name, "--network", name)
		}
		lab.Until(s.t, "the one is silent and the other heard twice", func() error {
			heard := regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(s.Host.Run("nft", "list", "table", "bridge", "announced"), -1)
			if len(heard) != 2 || heard[0][1] != "0" || heard[1][1] != "2" {
				return fmt.Errorf("heard %v", heard)
			}
			return nil
		})
	})
}

// TestEngineFlagsOfEveryNetworkHold is about the flags of dockerd that act on networks
// of every driver.
func TestEngineFlagsOfEveryNetworkHold(t *testing.T) {
	flags := []string{
		"--dns-search=example.test", "--dns-opt=ndots:3", "--host-gateway-ip=192.0.2.1",
		"--default-address-pool", "base=172.31.128.0/17,size=26",
	}
	eachEngineWith(t, flags, asItCame, func(s *site) {
		s.Docker("network", "create", "-d", "drawbridge", "web") // and addresses of Docker's
		s.Run("c1", "--network", "web", "--add-host", "host.docker.internal:host-gateway")
		if got := s.inspect("{{(index .IPAM.Config 0).Subnet}}", "web"); !strings.HasPrefix(got, "172.31.") || !strings.HasSuffix(got, "/26") {
			s.t.Errorf("the subnet is %s", got)
		}
		defer s.Host.Serve("tcp", ":7000").Close()
		s.MustReach("c1", "tcp", "host.docker.internal:7000", "host")
		conf := s.Docker("exec", "c1", "cat", "/etc/resolv.conf")
		for _, line := range []string{"search example.test", "ndots:3", "nameserver 127.0.0.11"} {
			if !strings.Contains(conf, line) {
				s.t.Errorf("resolv.conf lacks %q: %s", line, conf)
			}
		}
		s.flagsAreTold()
	})
}

// TestEngineExamplesOfTheDocsWork runs what docs/options.md shows, with an image that
// goes by the name used there.
func TestEngineExamplesOfTheDocsWork(t *testing.T) {
	eachEngine(t, func(s *site) {
		s.UseClients(lab.NewestClients)
		s.Docker("tag", lab.Image, "nginx")
		docs := s.docs()
		for _, commands := range blocks(docs, "sh") {
			for line := range strings.Lines(strings.ReplaceAll(commands, "\\\n", " ")) {
				s.Docker(strings.Fields(line)[1:]...)
			}
		}
		if out := s.Docker("exec", strings.TrimSpace(s.Docker("ps", "-lq")), "ip", "link"); !strings.Contains(out, " dev0@") || !strings.Contains(out, " eth0@") {
			s.t.Errorf("the last example promises dev0 and eth0: %s", out)
		}
		lab.Until(s.t, "the first example serves", func() error {
			_, err := s.Host.Ask("tcp", "127.0.0.1:8080")
			return err
		})
		s.Outside.MustNotReach("tcp", "192.0.2.1:8080", hello.Refuse)
		for _, project := range blocks(docs, "yaml") {
			s.compose(project)
			s.composeDown(project)
		}
	})
}

// docs is the page of options.
func (s *site) docs() string {
	s.t.Helper()
	docs, err := os.ReadFile("../../docs/options.md")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(docs)
}

// blocks are the parts of a page that are of one language.
func blocks(page, language string) []string {
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(page, -1) {
		all = append(all, m[1])
	}
	return all
}

// flagsAreTold looks for a flag that has to do with networks and is not in the docs.
func (s *site) flagsAreTold() {
	s.t.Helper()
	docs := s.docs()
	help, err := s.Try("dockerd", "--help")
	if err != nil {
		s.t.Fatal(err)
	}
	about := regexp.MustCompile(`(?i)networ|bridge|bip|ip-|ip6|^ip\b|iptables|fixed|gateway|dns|userland|direct|firewall|address-pool|icc|mtu|restore|userns|rootless|swarm|cluster`)
	for _, flag := range regexp.MustCompile(`--([a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
		if about.MatchString(flag[1]) && !strings.Contains(docs, "`--"+flag[1]+"`") {
			s.t.Errorf("docs/options.md does not tell of dockerd's --%s", flag[1])
		}
	}
}

func TestEngineFlagsOfDocker0LeaveOursAlone(t *testing.T) {
	flags := []string{
		"--bip=172.19.7.1/24", "--fixed-cidr=172.19.7.128/25", "--default-gateway=172.19.7.2", "--ipv6", "--fixed-cidr-v6=fd00:19::/64",
		"--mtu=1400", "--icc=false", "--ip=127.0.0.1", "--ip-masq=false", "--userland-proxy=false",
	}
	eachEngineWith(t, flags, asItCame, func(s *site) {
		s.mainJob()
		s.hasMTU("c1", "1500")
	})
}

// TestEngineFlagsOfLaterEnginesHold is about those that 20.10 does not know.
func TestEngineFlagsOfLaterEnginesHold(t *testing.T) {
	flags := []string{"--firewall-backend=nftables", "--ip-forward=false", "--default-network-opt=drawbridge=com.docker.network.driver.mtu=1420"}
	eachEngineWith(t, flags, asItCame, func(s *site) {
		s.mainJob()
		s.hasMTU("c1", "1420")
	})
}

func (s *site) hasMTU(container, want string) {
	s.t.Helper()
	if out := s.link(container, "eth0"); !strings.Contains(out, " mtu "+want+" ") {
		s.t.Errorf("want an MTU of %s: %s", want, out)
	}
}
