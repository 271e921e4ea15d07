package e2e

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestEngineEveryFormOfPublishingWorks says with -p whatever it can say, and in compose
// files. The numbers that were chosen outlive engine and daemon.
func TestEngineEveryFormOfPublishingWorks(t *testing.T) {
	liveRestore(t, func(s *site) {
		const locals, kept = "net/ipv4/ip_local_port_range", "net/ipv4/ip_local_reserved_ports"
		before := s.Host.Sysctl(locals)
		s.Host.Set(locals, "40000 41999")
		s.Host.Set(kept, "40000-40009,40011")
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")

		s.publishesEphemeral()
		s.publishesRangesAndAddresses()
		s.publishesAllOrNothing()
		s.publishesByCompose()
		numbers := s.ports()
		s.KillDocker()
		s.KillDaemon()
		s.StartDaemon()
		s.StartDocker()
		s.settled()
		for name, want := range numbers {
			if got := s.ports()[name]; !slices.Equal(got, want) {
				s.t.Errorf("after a live-restore %s has %q, it had %q", name, got, want)
			}
		}
		s.Outside.MustReach("tcp", join(s.Host.Addr.String(), s.number("e1", "80/tcp")), "e1")
		s.Host.Set(locals, before)
		s.Host.Set(kept, "\n")
	})
}

// publishesEphemeral is about numbers that nobody named: neither a person nor an
// administrator who wants them left alone.
func (s *site) publishesEphemeral() {
	s.t.Helper()
	s.Run("e1", "--network", "web", "-p", "80", "-p", "80/udp", "-p", "127.0.0.1::81", "-p", "[::1]::81", "-p", "8000-8002:82")
	s.Run("e2", "--network", "web", "--expose", "80", "-P")
	for _, name := range []string{"e1", "e2"} {
		number := s.number(name, "80/tcp")
		for _, address := range []string{s.Host.Addr.String(), s.Host.Addr6.String()} {
			s.Outside.MustReach("tcp", join(address, number), name)
		}
		s.Host.MustReach("tcp", join("127.0.0.1", number), name)
	}
	s.Outside.MustReach("udp", join(s.Host.Addr6.String(), s.number("e1", "80/udp")), "e1")
	number := s.number("e1", "81/tcp")
	want := []string{"127.0.0.1:" + number + "->81/tcp", "[::1]:" + number + "->81/tcp (proxy)"}
	if got := s.ports()["e1"]; !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
		s.t.Errorf("e1 has %q, want one number on both addresses of the loopback", got)
	}
	var chosen []int
	for _, name := range []string{"e1", "e2"} {
		for _, container := range []string{"80/tcp", "80/udp", "81/tcp"} {
			if name == "e2" && container != "80/tcp" {
				continue
			}
			n, err := strconv.Atoi(s.number(name, container))
			if err != nil || n < 40010 || n > 41999 || n == 40011 {
				s.t.Errorf("%s of %s has number %d", container, name, n)
			}
			chosen = append(chosen, n)
		}
	}
	if chosen[0] == chosen[3] {
		s.t.Errorf("two containers have number %d", chosen[0])
	}
}

// publishesRangesAndAddresses is about one number of a range, about a range that leads to
// another one, about several ports that lead to one, and about one port on two addresses.
func (s *site) publishesRangesAndAddresses() {
	s.t.Helper()
	s.Docker("run", "-d", "--name", "s1", "--hostname", "s1", "--network", "web", "-p", "8000-8002:9000", "-p", "8100-8109:9000-9009",
		"-p", "8201:9000", "-p", "192.0.2.1:8202:9000", "-p", "127.0.0.1:8200:9000", lab.Image, "peer", "serve", "tcp:9000", "tcp:9009")
	s.Serves("s1")
	s.Run("s2", "--network", "web", "-p", "8000-8002:80", "-p", "127.0.0.2:8200:80", "-p", "8203:80/sctp")
	for number, to := range map[string]string{"8001": "s1", "8002": "s2", "8100": "s1", "8109": "s1", "8201": "s1", "8202": "s1"} {
		s.Outside.MustReach("tcp", join(s.Host.Addr.String(), number), to)
	}
	s.Outside.MustReach("tcp", join(s.Host.Addr6.String(), "8109"), "s1")
	s.Host.MustReach("tcp", "127.0.0.1:8200", "s1")
	s.Host.MustReach("tcp", "127.0.0.2:8200", "s2")
	s.showsPorts("s2", "0.0.0.0:8203->80/sctp", "[::]:8203->80/sctp")

	s1, s2 := s.endpoint("s1"), s.endpoint("s2")
	s.refuses("none of 8000-8002 is free", "8002->80/tcp is published by endpoint "+s2, "--network", "web", "-p", "8000-8002:80")
	s.refuses("127.0.0.1:8200->9000/tcp is published by endpoint "+s1, "8200->80/tcp", "--network", "web", "-p", "8200:80")
	s.refuses("8201->9000/tcp is published by endpoint "+s1, "127.0.0.9:8201->80/tcp", "--network", "web", "-p", "127.0.0.9:8201:80")
}

// publishesAllOrNothing has the seventh of ten ports be somebody else's.
func (s *site) publishesAllOrNothing() {
	s.t.Helper()
	taken := s.Host.Serve("tcp", ":8307")
	before, ports := s.Host.Snapshot(), s.ports()
	args := []string{"--network", "web", "-p", "40500-40510:81"}
	for i := range 10 {
		args = append(args, "-p", strconv.Itoa(8301+i)+":"+strconv.Itoa(9000+10*i))
	}
	s.refuses("8307", "address already in use", args...)
	if diff := before.Diff(s.Host.Snapshot()); diff != "" {
		s.t.Errorf("a refusal left something on the host:\n%s", diff)
	}
	if got := s.ports(); len(got) != len(ports) {
		s.t.Errorf("a refusal left an endpoint: %q", got)
	}
	taken.Close()
}

func (s *site) publishesByCompose() {
	s.t.Helper()
	project := `
services:
  one: {image: lab, hostname: one, container_name: one, ports: ["80"]}
  two: {image: lab, hostname: two, container_name: two, ports: ["8400-8401:80", "127.0.0.1:8405:80/udp", {target: 80, published: 8406, protocol: udp}]}
networks:
  default: {driver: "` + s.driver + `", ipam: {driver: "` + s.driver + `"}}
`
	s.compose(project)
	s.Serves("one")
	s.Serves("two")
	s.Outside.MustReach("tcp", join(s.Host.Addr.String(), s.number("one", "80/tcp")), "one")
	s.Outside.MustReach("tcp", join(s.Host.Addr.String(), s.number("two", "80/tcp")), "two")
	s.Outside.MustReach("udp", join(s.Host.Addr.String(), "8406"), "two")
	s.Host.MustReach("udp", "127.0.0.1:8405", "two")
	s.composeDown(project)
}

// refuses fails the test unless docker run says both texts.
func (s *site) refuses(text, another string, args ...string) {
	s.t.Helper()
	_, err := s.TryDocker(append(append([]string{"run", "-d", "--name", "refused"}, args...), lab.Image)...)
	if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), another) {
		s.t.Errorf("docker run %q: want a refusal with %q and %q, got %v", args, text, another, err)
	}
	s.Docker("rm", "-f", "refused")
}

// endpoint is the short ID of a container's endpoint on network web.
func (s *site) endpoint(container string) string {
	s.t.Helper()
	return s.inspect(`{{(index .NetworkSettings.Networks "web").EndpointID}}`, container)[:12]
}

// ports are those that drawbridge ps shows, by container.
func (s *site) ports() map[string][]string {
	s.t.Helper()
	out, err := s.Drawbridge("ps", "--json", "--docker-socket", "/run/docker.sock")
	var list []struct {
		Container string
		Ports     []string
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil {
		s.t.Fatalf("ps: %v\n%s", err, out)
	}
	all := map[string][]string{}
	for _, c := range list {
		all[c.Container] = c.Ports
	}
	return all
}

var numbered = regexp.MustCompile(`:(\d+)->(\S+)`)

// number is the host's that leads to a port of a container, e.g. 80/tcp, the same on all
// addresses.
func (s *site) number(container, port string) string {
	s.t.Helper()
	found := ""
	for _, shown := range s.ports()[container] {
		m := numbered.FindStringSubmatch(shown)
		if m == nil || m[2] != port {
			continue
		}
		if found != "" && found != m[1] {
			s.t.Errorf("port %s of %s has numbers %s and %s", port, container, found, m[1])
		}
		found = m[1]
	}
	if found == "" {
		s.t.Fatalf("ps shows no port %s of %s: %q", port, container, s.ports())
	}
	return found
}
