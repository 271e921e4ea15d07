package lab_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func TestKernelLabMachinesReachEachOtherInBothFamilies(t *testing.T) {
	l := lab.New(t)
	l.Host.Serve("tcp", ":80")
	l.Host.Serve("udp", ":80")
	l.Outside.Serve("tcp", ":80")
	for _, network := range []string{"tcp", "udp"} {
		if got := l.Outside.MustReach(network, "192.0.2.1:80", "host").Addr(); got != l.Outside.Addr {
			t.Errorf("%s: host saw %v", network, got)
		}
		if got := l.Neighbour.MustReach(network, "[2001:db8:1::1]:80", "host").Addr(); got != l.Neighbour.Addr6 {
			t.Errorf("%s: host saw %v", network, got)
		}
	}
	l.Host.MustReach("tcp", lab.Internet+":80", "outside")
	l.Host.MustReach("tcp", "["+lab.Internet6+"]:80", "outside")
}

func TestKernelLabTellsRefusalFromSilence(t *testing.T) {
	l := lab.New(t)
	for _, network := range []string{"tcp", "udp"} {
		l.Outside.MustNotReach(network, "192.0.2.1:81", hello.Refuse)
	}
	l.Host.Feed(`table inet t { chain c { type filter hook input priority 0; meta l4proto { tcp, udp } drop; }; }`, "nft", "-f", "-")
	for _, network := range []string{"tcp", "udp"} {
		l.Outside.MustNotReach(network, "192.0.2.1:81", hello.Drop)
	}
}

func TestKernelLabConversationIsOneFlow(t *testing.T) {
	l := lab.New(t)
	l.Host.Serve("tcp", ":80")
	conn := l.Outside.Dial("tcp", "192.0.2.1:80")
	for range 3 {
		answer, err := conn.Ask(hello.Patience)
		if err != nil || answer.Client != conn.LocalAddr() {
			t.Fatalf("answer %v, %v; want the client %v", answer, err, conn.LocalAddr())
		}
	}
}

func TestKernelLabSnapshotIsEqualAfterTrafficAndNamesEachChange(t *testing.T) {
	l := lab.New(t)
	h := l.Host
	h.Serve("tcp", "192.0.2.1:80")
	before := h.Snapshot()
	l.Outside.MustReach("tcp", "192.0.2.1:80", "host")
	if diff := before.Diff(h.Snapshot()); diff != "" {
		t.Fatalf("traffic changed the snapshot:\n%s", diff)
	}
	for _, change := range []struct{ name, do, undo, want string }{
		{"a link", "ip link add bridge7 type bridge", "ip link del bridge7", "+ bridge7: linkinfo.info_kind bridge"},
		{"an attribute", "ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500", "- eth0: mtu 1500"},
		{"an address", "ip addr add 10.1.0.1/24 dev eth0", "ip addr del 10.1.0.1/24 dev eth0", "local=10.1.0.1"},
		{"a route of another table", "ip route add 10.2.0.0/24 via 192.0.2.3 table 77", "ip route flush table 77", "table=77"},
		{"a permanent neighbour", "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0", "ip neigh del 192.0.2.9 dev eth0", "02:00:00:00:00:09"},
		{"a rule", "ip rule add fwmark 7 lookup 77", "ip rule del fwmark 7 lookup 77", "fwmark=0x7"},
		{"an nftables table", "nft add table inet seven", "nft delete table inet seven", "+ table inet seven"},
		{"an iptables rule", "iptables-nft -A INPUT -s 10.7.0.7 -j DROP", "nft delete table ip filter", "-A INPUT -s 10.7.0.7/32 -j DROP"},
		{"a sysctl", "sysctl -qw net.ipv4.conf.eth0.route_localnet=1", "sysctl -qw net.ipv4.conf.eth0.route_localnet=0", "+ net/ipv4/conf/eth0/route_localnet = 1"},
	} {
		t.Run(change.name, func(t *testing.T) {
			h.Run("sh", "-c", change.do)
			if diff := before.Diff(h.Snapshot()); !strings.Contains(diff, change.want) {
				t.Errorf("want %q in\n%s", change.want, diff)
			}
			h.Run("sh", "-c", change.undo)
			if diff := before.Diff(h.Snapshot()); diff != "" {
				t.Errorf("after the change was undone:\n%s", diff)
			}
		})
	}
}

func TestKernelLabSnapshotKeepsTheOrderOfRulesAndNotThatOfChains(t *testing.T) {
	h := lab.NewHost(t)
	picture := func(ruleset string) lab.Snapshot {
		h.Feed("flush ruleset\n"+ruleset, "nft", "-f", "-")
		return h.Snapshot()
	}
	before := picture("table ip t { chain a { tcp dport vmap { 1 : accept, 2 : drop }; accept; }; chain b { drop; }; }")
	if diff := before.Diff(picture("table ip t { chain b { drop; }; chain a { tcp dport vmap { 1 : accept, 2 : drop }; accept; }; }")); diff != "" {
		t.Errorf("the same chains in another order:\n%s", diff)
	}
	diff := before.Diff(picture("table ip t { chain a { accept; tcp dport vmap { 1 : accept, 2 : drop }; }; chain b { drop; }; }"))
	if want := "+ table ip t: chain a: tcp dport"; !strings.Contains(diff, want) {
		t.Errorf("the same rules in another order: want %q in\n%s", want, diff)
	}
}

func TestKernelLabSnapshotSeesSocketsThatHoldAPort(t *testing.T) {
	h := lab.NewHost(t)
	before := h.Snapshot()
	h.Serve("tcp6", "[::1]:81")
	h.Serve("udp4", "127.0.0.1:82")
	h.Bind("tcp", netip.MustParseAddrPort("127.0.0.1:83"))
	diff := before.Diff(h.Snapshot())
	for _, want := range []string{"+ tcp [::1]:81 listens", "+ udp 127.0.0.1:82 bound", "+ tcp 127.0.0.1:83 bound"} {
		if !strings.Contains(diff, want) {
			t.Errorf("want %q in\n%s", want, diff)
		}
	}
}

func TestKernelLabRoutesThroughTheHost(t *testing.T) {
	l := lab.New(t)
	l.Host.Run("ip", "addr", "add", "10.9.0.1/32", "dev", "lo")
	l.Host.Serve("tcp", "10.9.0.1:80")
	l.Neighbour.Route(netip.MustParsePrefix("10.9.0.0/24"), l.Host)
	l.Neighbour.MustReach("tcp", "10.9.0.1:80", "host")
	l.Outside.MustNotReach("tcp", "10.9.0.1:80", hello.Refuse) // no route
}
