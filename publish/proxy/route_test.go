package proxy

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

func TestRouteIsThatOfTheClientsFamily(t *testing.T) {
	to4, to6 := netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:30::2")
	few := Route{Proto: spec.TCP, Port: 80, V6: plan.Proxy{To: to6}}
	only4 := Route{Proto: spec.TCP, Port: 80, V6: plan.Proxy{To: to4, All: true}}
	both := Route{Proto: spec.TCP, Port: 80, V4: plan.Proxy{To: to4, All: true}, V6: plan.Proxy{To: to6, All: true}}
	for _, row := range []struct {
		promise       string
		route         Route
		client, local string
		want          string
	}{
		{"the kernel cannot route from ::1", few, "::1", "::1", "[fd00:30::2]:80"},
		{"the kernel cannot route from link-local addresses", few, "fe80::2", "2001:db8::1", "[fd00:30::2]:80"},
		{"the kernel routes all else", few, "2001:db8::2", "2001:db8::1", ""},
		{"a family without a route is not served", few, "192.0.2.2", "192.0.2.1", ""},
		{"IPv6 may be served by IPv4", only4, "2001:db8::2", "2001:db8::1", "172.30.0.2:80"},
		{"IPv4 by IPv4", both, "192.0.2.2", "192.0.2.1", "172.30.0.2:80"},
		{"IPv6 by IPv6", both, "2001:db8::2", "2001:db8::1", "[fd00:30::2]:80"},
	} {
		want := netip.AddrPort{}
		if row.want != "" {
			want = netip.MustParseAddrPort(row.want)
		}
		if got := row.route.target(netip.MustParseAddr(row.client), netip.MustParseAddr(row.local)); got != want {
			t.Errorf("%s: %v, want %v", row.promise, got, want)
		}
	}
}

func TestAnswersLeaveFromWhereTheQuestionArrived(t *testing.T) {
	for _, row := range []struct {
		promise       string
		is4           bool
		client, local string
		ifindex, back int
	}{
		{"a socket of IPv4", true, "192.0.2.2", "192.0.2.1", 3, 0},
		{"IPv4 on a socket of both", false, "192.0.2.2", "192.0.2.1", 3, 0},
		{"IPv6 goes back by whatever way", false, "2001:db8::2", "2001:db8::1", 3, 0},
		{"a link-local client is behind one interface", false, "fe80::2", "2001:db8::1", 3, 3},
	} {
		d := datagram{client: netip.AddrPortFrom(netip.MustParseAddr(row.client), 5000), local: netip.MustParseAddr(row.local), ifindex: row.ifindex}
		to, from := d.talk().answer(row.is4)
		if row.is4 { // what is written as the second address is read as the third
			copy(from[unix.SizeofCmsghdr+8:], from[unix.SizeofCmsghdr+4:][:4])
		}
		if local, ifindex := arrival(from); local != d.local || ifindex != row.back {
			t.Errorf("%s: from %v, interface %d; want %v, %d", row.promise, local, ifindex, d.local, row.back)
		}
		if addrPort(to) != d.client {
			t.Errorf("%s: to %v, want %v", row.promise, addrPort(to), d.client)
		}
	}
}

func TestControlMessagesOfOthersAreNoAddress(t *testing.T) {
	for _, control := range [][]byte{nil, {1, 2, 3}, unix.UnixRights(1)} {
		if local, ifindex := arrival(control); local.IsValid() || ifindex != 0 {
			t.Errorf("%v: %v, interface %d", control, local, ifindex)
		}
	}
}

func TestGrumblerSaysTheSameOnceAMinute(t *testing.T) {
	var g grumbler
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		after  time.Duration
		what   string
		unsaid int
		due    bool
	}{
		{0, "a", 0, true},
		{time.Second, "a", 0, false},
		{2 * time.Second, "b", 0, true},
		{59 * time.Second, "a", 0, false},
		{time.Minute, "a", 2, true},
		{2 * time.Minute, "a", 0, true},
	} {
		if unsaid, due := g.due(row.what, at.Add(row.after)); unsaid != row.unsaid || due != row.due {
			t.Errorf("%q after %v: %d unsaid, due %v; want %d, %v", row.what, row.after, unsaid, due, row.unsaid, row.due)
		}
	}
}

func TestLimitsLeaveFilesForOthers(t *testing.T) {
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if need := uint64(o.Connections*filesPerConnection + o.Sessions); need > files.Cur/4 {
		t.Errorf("%d connections and %d sessions need %d of %d files", o.Connections, o.Sessions, need, files.Cur)
	}
}
