package firewalltest

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// NoGap has somebody disturb a firewall while new connections begin all the time, and
// fails on any that is lost, and on any packet that leaves with the source of a container.
func NoGap(t *testing.T, b Backend, disturb func(h *lab.Host)) {
	t.Helper()
	c := newTown(t, b)
	scene.Serve(t, c.Outside, "outside", "tcp [::]:80")
	c.Outside.Feed(`table inet probe { chain c { type filter hook prerouting priority -300
		udp dport 9 counter
		ip saddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 } counter
		ip6 saddr fd00::/8 counter
	}; }`, "nft", "-f", "-")
	settled(t, c.a2, "172.30.0.1", "fd00:30::1")
	defer c.beginnings()()
	var stops []func()
	for what, ask := range map[string]func() (hello.Answer, error){
		"outside asks for a published port":         func() (hello.Answer, error) { return c.Outside.Ask("tcp", "192.0.2.1:8080") },
		"outside asks for a published port by IPv6": func() (hello.Answer, error) { return c.Outside.Ask("tcp", "[2001:db8:1::1]:8080") },
		"a container asks outside":                  func() (hello.Answer, error) { return c.a2.Ask("tcp", lab.Internet+":80") },
	} {
		stops = append(stops, lab.Steadily(t, what, func() error { _, err := ask(); return err }))
	}
	c.more(0, 20)
	for range 10 {
		disturb(c.Host)
		c.more(0, 20)
	}
	for _, stop := range stops {
		stop()
	}
	seen := c.probe()
	t.Logf("%d packets began a flow, %d and %d left with a container's address", seen[0], seen[1], seen[2])
	if seen[1]+seen[2] > 0 {
		t.Error("a packet has left untranslated")
	}
	b.Wipe(t, c.Host) // then they are seen
	c.more(1, 1)
	c.more(2, 1)
}

// more waits until the probe has counted more packets of a kind.
func (c *town) more(kind, packets int) {
	c.T.Helper()
	enough := c.probe()[kind] + packets
	lab.Until(c.T, "packets arrive", func() error {
		if got := c.probe()[kind]; got < enough {
			return fmt.Errorf("%d of %d", got, enough)
		}
		return nil
	})
}

// beginnings has a container send packets outside, each of a new flow, until stop.
func (c *town) beginnings() (stop func()) {
	end := make(chan struct{})
	var sending sync.WaitGroup
	for _, to := range []string{lab.Internet + ":9", "[" + lab.Internet6 + "]:9"} {
		sending.Go(func() {
			c.a2.Do(func() {
				pace := time.NewTicker(time.Millisecond)
				defer pace.Stop()
				for {
					select {
					case <-end:
						return
					case <-pace.C:
					}
					if conn, err := net.Dial("udp", to); err == nil {
						_, _ = conn.Write([]byte("begin")) // what is refused or lost is counted where it should arrive
						conn.Close()
					}
				}
			})
		})
	}
	return func() { close(end); sending.Wait() }
}

var counted = regexp.MustCompile(`counter packets (\d+)`)

// probe is how many packets have come to outside, and with which sources.
func (c *town) probe() []int {
	c.T.Helper()
	var all []int
	for _, found := range counted.FindAllStringSubmatch(c.Outside.Run("nft", "list", "table", "inet", "probe"), -1) {
		n, err := strconv.Atoi(found[1])
		if err != nil {
			c.T.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}
