package firewalltest

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// rangesShifted asks for every port of ranges that lead to others, which overlap the host's,
// and for those beside them.
func rangesShifted(t *testing.T, b Backend) {
	const first, to, count = 8000, 8003, 10
	w := scene.NewWorld(t).Network("a", spec.Network{Masquerade: true}, "172.30.0.0/24", "fd00:30::/64").
		Endpoint("a", "e", "172.30.0.2/24", "fd00:30::2/64",
			scene.TCP("", first, to, count), scene.UDP("", first, to, count),
			scene.TCP("192.0.2.1", 7000, to, count), scene.UDP("127.0.0.1", 7000, to, count), scene.TCP("2001:db8:1::1", 7000, to, count))
	c := settle(t, b, w)
	a := c.Container("a", scene.Bridge("a"), "172.30.0.2/24", "fd00:30::2/64")
	for port := to - 1; port <= to+count; port++ {
		for _, network := range []string{"tcp", "udp"} {
			scene.Serve(t, a, fmt.Sprint(port), fmt.Sprintf("%s [::]:%d", network, port))
		}
	}
	var asking sync.WaitGroup
	for _, row := range []struct {
		from             *lab.Host
		networks, server string
		first            int
	}{
		{c.Outside, "tcp udp", "192.0.2.1", first},
		{c.Outside, "tcp udp", "2001:db8:1::1", first},
		{c.Host, "tcp udp", "127.0.0.1", first},
		{c.Outside, "tcp", "192.0.2.1", 7000},
		{c.Outside, "tcp", "2001:db8:1::1", 7000},
		{c.Host, "udp", "127.0.0.1", 7000},
	} {
		for network := range strings.FieldsSeq(row.networks) {
			asking.Go(func() {
				for i := range count {
					at := net.JoinHostPort(row.server, fmt.Sprint(row.first+i))
					answer, err := row.from.Ask(network, at)
					if want := fmt.Sprint(to + i); err != nil || answer.Server != want {
						t.Errorf("%s/%s: want port %s, got %v %v", at, network, want, answer, err)
					}
				}
				for _, beside := range []int{row.first - 1, row.first + count} {
					at := net.JoinHostPort(row.server, fmt.Sprint(beside))
					if answer, err := row.from.AskFor(network, at, hello.Impatience); hello.Judge(err) != hello.Refuse {
						t.Errorf("%s/%s: want a refusal, got %v %v", at, network, answer, err)
					}
				}
			})
		}
	}
	asking.Wait()
}
