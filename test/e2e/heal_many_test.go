package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

const (
	manyEndpoints = 300
	manyPorts     = 5000
	// manyWithin is four times what a person may wait for.
	manyWithin = 4 * time.Second
)

// TestKernelManyContainersAreMendedAtOnce is about what costs most: whatever is there of
// three hundred containers and five thousand ports goes at once. The test plays the engine,
// and most containers are but the other ends of their pairs.
func TestKernelManyContainersAreMendedAtOnce(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	s := &troubled{Lab: l, Alone: l.Host.Alone(), t: t}
	s.Alone.Failpoints().Order("fail 0 ^nftables: own") // an older kernel, where a flush takes our table
	s.MustStart()
	began := time.Now()
	m := s.many()
	t.Logf("%d endpoints with %d ports are there after %v", manyEndpoints, manyPorts, time.Since(began).Round(time.Millisecond))
	m.mends(s, manyWithin,
		tampering{name: "nft flush ruleset", do: "nft flush ruleset"},
		tampering{name: "the bridge is deleted", do: "ip link del " + m.bridge},
		tampering{name: "all ports are set down", do: "ip -br link | sed -n 's/^\\(dbv[^@ ]*\\).*/link set \\1 down/p' | ip -batch -"},
		tampering{name: "all ports are taken off the bridge", do: "ip -br link | sed -n 's/^\\(dbv[^@ ]*\\).*/link set \\1 nomaster/p' | ip -batch -"})
	s.Kill()
	s.MustStart("--firewall=iptables")
	m.mends(s, pollsWithin,
		tampering{name: "with iptables: nft flush ruleset", do: "nft flush ruleset"},
		tampering{name: "with iptables: iptables -t nat -F", do: iptablesNFT.each("-t nat -F")})
	m.probes.Stop()
}

func (m *multitude) mends(s *troubled, limit time.Duration, all ...tampering) {
	s.t.Helper()
	for _, w := range all {
		m.probes.Forget()
		if out, err := s.Host.Try("sh", "-ec", w.do); err != nil {
			s.t.Fatalf("%s%v", out, err)
		}
		s.t.Logf("%s: %s", w.name, m.probes.Steady(w.name, time.Now(), limit))
	}
}

// multitude is one network with very many containers.
type multitude struct {
	probes *lab.Probes
	bridge string
}

// many plays an engine that starts them. Two of them are asked and ask.
func (s *troubled) many() *multitude {
	s.t.Helper()
	s.must(s.Ask("NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q,"Options":{"com.docker.network.enable_ipv4":true,"com.docker.network.enable_ipv6":true},
		"IPv4Data":[{"AddressSpace":"x","Gateway":"172.30.0.1/16","Pool":"172.30.0.0/16"}],
		"IPv6Data":[{"AddressSpace":"x","Gateway":"fd00:30::1/64","Pool":"fd00:30::/64"}]}`, networkOf(1))))
	var starting sync.WaitGroup
	turns := make(chan struct{}, 8)
	for n := range manyEndpoints {
		turns <- struct{}{}
		starting.Go(func() {
			defer func() { <-turns }()
			if err := s.start(n); err != nil {
				s.t.Error(err)
			}
		})
	}
	starting.Wait()
	rest := lab.NewHost(s.t)
	var move strings.Builder
	for n := 2; n < manyEndpoints; n++ {
		fmt.Fprintf(&move, "link set dbp%s netns %s\n", containerOf(n)[:12], rest.Netns())
	}
	s.Host.Feed(move.String(), "ip", "-batch", "-")
	rest.Run("sh", "-ec", "ip -br link | sed -n 's/^\\(dbp[^@ ]*\\).*/link set \\1 up/p' | ip -batch -")
	return s.asked()
}

// start plays the start of the nth container, with its share of the ports.
func (s *troubled) start(n int) error {
	each := (manyPorts + manyEndpoints - 1) / manyEndpoints
	var ports []string
	for i := n * each; i < min((n+1)*each, manyPorts); i++ {
		// No two are neighbours: what makes a range costs less.
		ports = append(ports, fmt.Sprintf(`{"Proto":6,"IP":"","Port":%d,"HostIP":"","HostPort":%[2]d,"HostPortEnd":%[2]d}`, 80+i-n*each, 10000+2*i))
	}
	publish := `,"Options":{"com.docker.network.portmap":[` + strings.Join(ports, ",") + `]}`
	address := fmt.Sprintf(`,"Interface":{"Address":"172.30.%d.%d/16","AddressIPv6":"fd00:30::%x/64"},"Options":{}`, 1+n/200, 1+n%200, 0x100+n)
	for _, call := range []struct{ method, more string }{
		{"CreateEndpoint", address},
		{"Join", `,"SandboxKey":"/nowhere","Options":{}`},
		{"ProgramExternalConnectivity", publish},
	} {
		if err := s.call(call.method, n, call.more); err != nil {
			return fmt.Errorf("%s of container %d: %w", call.method, n, err)
		}
	}
	return nil
}

// asked has the first two containers live, and probes them.
func (s *troubled) asked() *multitude {
	s.t.Helper()
	var first [2]*lab.Host
	for n := range first {
		c := lab.NewHost(s.t)
		s.Host.Run("ip", "link", "set", "dbp"+containerOf(n)[:12], "netns", c.Netns(), "name", "eth0")
		c.Set("net/ipv6/conf/eth0/accept_dad", "0")
		c.Run("sh", "-ec", fmt.Sprintf(`ip addr add 172.30.1.%d/16 dev eth0; ip addr add fd00:30::%x/64 dev eth0 nodad; ip link set eth0 up
			ip route add default via 172.30.0.1; ip route add default via fd00:30::1`, 1+n, 0x100+n))
		c.Serve("tcp", ":80")
		first[n] = c
	}
	s.Outside.Serve("tcp", ":80")
	s.Host.Serve("tcp", ":7000")
	m := &multitude{bridge: "dbr" + networkOf(1)[:12]}
	m.probes = lab.Probe(s.t, answers(s.Outside, "192.0.2.1:7000", "host"), map[string]lab.Question{
		"from outside by IPv4": answers(s.Outside, "192.0.2.1:10000", "host"),
		"from outside by IPv6": answers(s.Outside, "[2001:db8:1::1]:10000", "host"),
		"to outside by IPv4":   answers(first[0], lab.Internet+":80", "outside"),
		"to outside by IPv6":   answers(first[0], join(lab.Internet6, "80"), "outside"),
		"beside by IPv4":       answers(first[1], "172.30.1.1:80", "host"),
		"beside by IPv6":       answers(first[1], "[fd00:30::100]:80", "host"),
	}, nil)
	m.probes.Steady("before", time.Now(), manyWithin)
	return m
}
