package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/spec"
)

// portMap reads what the engine makes of docker run -p, of which each is e.g.
// 127.0.0.1:8000-8010:80/tcp, :80/tcp or [::1]::80/udp.
func portMap(t testing.TB, published ...string) spec.PortMap {
	t.Helper()
	var entries []string
	for _, text := range published {
		rest, proto, _ := strings.Cut(text, "/")
		at := strings.LastIndexByte(rest, ':')
		rest, container := rest[:at], rest[at+1:]
		at = strings.LastIndexByte(rest, ':') // -1 if there is no address
		host, numbers := strings.Trim(rest[:max(at, 0)], "[]"), rest[at+1:]
		first, last, _ := strings.Cut(numbers, "-")
		if first == "" {
			first = "0"
		}
		if last == "" {
			last = first
		}
		number := map[string]spec.Proto{"tcp": spec.TCP, "udp": spec.UDP, "sctp": spec.SCTP}[proto]
		entries = append(entries, fmt.Sprintf(`{"Proto":%d,"Port":%s,"HostIP":%q,"HostPort":%s,"HostPortEnd":%s}`, number, container, host, first, last))
	}
	rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	o := spec.Options{"com.docker.network.portmap": json.RawMessage("[" + strings.Join(entries, ",") + "]")}
	m, err := o.PortMap(&spec.Network{})
	if err = errors.Join(err, m.Refused); err != nil {
		t.Fatalf("port map of %q: %v", published, err)
	}
	return m
}

// finder has four ephemeral ports, in two ranges, and a host on which some are taken.
func finder(taken ...string) *spec.Finder {
	return &spec.Finder{Ephemeral: []spec.PortRange{{First: 40000, Last: 40001}, {First: 50000, Last: 50001}}, Reserve: func(ports []spec.Port) error {
		for _, p := range ports {
			if text := fmt.Sprintf("%d/%s", p.HostPort, p.Proto); slices.Contains(taken, text) {
				return fmt.Errorf("%w: %s is nginx's", spec.ErrInUse, text)
			}
		}
		return nil
	}}
}

// wish publishes a port map whose numbers are chosen.
func wish(n, ep spec.ID, f *spec.Finder, published ...string) step {
	return func(t *testing.T, s *spec.State) error {
		m := portMap(t, published...)
		ports, err := s.Choose(n, ep, m, f)
		if err != nil {
			return err
		}
		return s.Publish(n, ep, ports, m.OnlyIPv4)
	}
}

// wishOnlyIPv4 is wish for an endpoint beside the gateway for IPv6.
func wishOnlyIPv4(n, ep spec.ID, f *spec.Finder, published ...string) step {
	return func(t *testing.T, s *spec.State) error {
		m := portMap(t, published...)
		m.OnlyIPv4 = true
		ports, err := s.Choose(n, ep, m, f)
		if err != nil {
			return err
		}
		return s.Publish(n, ep, ports, true)
	}
}

func TestNumbersAreChosen(t *testing.T) {
	host := []step{
		add(network(web, "10.1.0.0/24", "fd00:1::/64")), attach(web, endpoint(c1, "10.1.0.2/24", "fd00:1::2/64")),
		attach(web, endpoint(c2, "10.1.0.3/24", "fd00:1::3/64")), attach(web, endpoint(c3, "10.1.0.4/24", "fd00:1::4/64")),
	}
	later := finder()
	later.Start = 40001
	for _, story := range []struct {
		promise string
		steps   []step
		class   error    // of the last step
		texts   []string // in its error
	}{
		{"an ephemeral port is the first from where the search begins", []step{wish(web, c1, finder(), ":80/tcp"), published(web, c1, "*:40000->80/tcp")}, nil, nil},
		{"the search wanders on, over the end of the last range", []step{
			wish(web, c1, later, ":80/tcp"), published(web, c1, "*:40001->80/tcp"), undo(revoke, web, c1),
			wish(web, c1, later, ":80/tcp"), published(web, c1, "*:50000->80/tcp"), wish(web, c2, later, ":80/tcp", ":80/udp"),
			published(web, c2, "*:50001->80/tcp", "*:50001->80/udp"),
		}, nil, nil},
		{"what somebody else on the host has is passed over", []step{wish(web, c1, finder("40000/tcp", "40001/tcp"), ":80/tcp"), published(web, c1, "*:50000->80/tcp")}, nil, nil},
		{"what another container has is passed over", []step{publish(web, c2, "127.0.0.1:40000->80/tcp"), wish(web, c1, finder(), ":80/tcp"), published(web, c1, "*:40001->80/tcp")}, nil, nil},
		{"no ephemeral port is free", []step{wish(web, c1, finder("40000/tcp", "40001/tcp", "50000/tcp", "50001/tcp"), ":80/tcp")}, spec.ErrInUse, []string{"an ephemeral port for 80/tcp on every address", "none of 40000-40001, 50000-50001 is free"}},
		{"there is no ephemeral port", []step{wish(web, c1, &spec.Finder{}, ":80/tcp")}, spec.ErrInUse, []string{"ip_local_port_range", "ip_local_reserved_ports"}},
		{"one of a range is the first that is free", []step{
			wish(web, c1, finder(), "8000-8002:80/tcp"), wish(web, c2, finder("8001/tcp"), "8000-8002:80/tcp"), published(web, c1, "*:8000->80/tcp"), published(web, c2, "*:8002->80/tcp"),
		}, nil, nil},
		{"a range of which all is taken is refused, and everybody named who has it", []step{
			publish(web, c1, "127.0.0.1:8000->80/tcp"), wish(web, c2, finder("8001/tcp"), "8000-8001:80/tcp"),
		}, spec.ErrInUse, []string{"a port of 8000-8001 for 80/tcp on every address", "127.0.0.1:8000->80/tcp is published by endpoint c10000000000 of network web000000000", "8001/tcp is nginx's"}},
		{"of a wide range, the first who have it are named", []step{
			publish(web, c1, "*:8000->80/tcp", "*:8001->80/tcp"), wish(web, c2, finder("8002/tcp", "8003/tcp", "8004/tcp", "8005/tcp", "8006/tcp", "8007/tcp", "8008/tcp", "8009/tcp"), "8000-8009:80/tcp"),
		}, spec.ErrInUse, []string{"none of 8000-8009 is free: *:8000->80/tcp is published by endpoint c10000000000 of network web000000000; *:8001->80/tcp is", "8007/tcp is nginx's; and so on"}},
		{"a range too small for its wishes names the container itself", []step{wish(web, c1, finder(), "8000-8001:80/tcp", "8000-8001:81/tcp", "8000-8001:82/tcp")}, spec.ErrInUse, []string{"the container itself has *:8000->80/tcp"}},
		{"a failure that is no clash ends the search", []step{wish(web, c1, &spec.Finder{Ephemeral: finder().Ephemeral, Reserve: func([]spec.Port) error { return spec.ErrInvalid }}, "8000-8002:80/tcp")}, spec.ErrInvalid, []string{"a port of 8000-8002 for 80/tcp"}},
		{"exact ports go first, then ranges, then ephemeral ones", []step{
			wish(web, c1, finder(), ":80/tcp", "40000-40001:81/tcp", "40000:82/tcp"), published(web, c1, "*:40000->82/tcp", "*:40001->81/tcp", "*:50000->80/tcp"),
		}, nil, nil},
		{"the narrower range chooses first", []step{wish(web, c1, finder(), "8000-8002:80/tcp", "8000-8000:81/tcp", "8000-8001:82/tcp"), published(web, c1, "*:8000-8001->81-82/tcp", "*:8002->80/tcp")}, nil, nil},
		{"all addresses of a wish get one number", []step{
			publish(web, c2, "127.0.0.1:40000->80/tcp"), publish(web, c3, "[::1]:40001->80/tcp"),
			wish(web, c1, finder(), "127.0.0.1::80/tcp", "[::1]::80/tcp"), published(web, c1, "127.0.0.1:50000->80/tcp", "[::1]:50000->80/tcp"),
		}, nil, nil},
		{"all addresses of a wish for one of a range get one number", []step{
			wish(web, c1, finder("8000/tcp"), "127.0.0.1:8000-8002:80/tcp", "127.0.0.2:8000-8002:80/tcp"), published(web, c1, "127.0.0.1:8001->80/tcp", "127.0.0.2:8001->80/tcp"),
		}, nil, nil},
		{"a port asked for twice is two", []step{wish(web, c1, finder(), ":80/tcp", ":80/tcp"), published(web, c1, "*:40000->80/tcp", "*:40001->80/tcp")}, nil, nil},
		{"an address and all of them get two numbers", []step{wish(web, c1, finder(), "127.0.0.1::80/tcp", ":80/tcp", "127.0.0.1::80/tcp"), published(web, c1, "*:40000->80/tcp", "127.0.0.1:40001->80/tcp", "127.0.0.1:50000->80/tcp")}, nil, nil},
		{"one number leads to two protocols if both are free", []step{wish(web, c1, finder(), "8000-8001:53/tcp", "8000-8001:53/udp"), published(web, c1, "*:8000->53/tcp", "*:8000->53/udp")}, nil, nil},
		{"the same port map keeps its numbers", []step{
			wish(web, c1, later, ":80/tcp", "8000-8001:81/tcp", ":80/tcp"), wish(web, c1, finder(), ":80/tcp", "8000-8001:81/tcp", ":80/tcp"),
			published(web, c1, "*:8000->81/tcp", "*:40001->80/tcp", "*:50000->80/tcp"),
		}, nil, nil},
		{"another port map keeps the numbers of wishes that stay", []step{
			wish(web, c1, finder(), "8000-8001:81/tcp", ":80/tcp", ":90/tcp"), wish(web, c1, later, "8000:82/tcp", "8000-8001:81/tcp", ":90/tcp"),
			published(web, c1, "*:8000->82/tcp", "*:8001->81/tcp", "*:40001->90/tcp"),
		}, nil, nil},
		{"a number moves to other addresses if it is free there", []step{wish(web, c1, later, "127.0.0.1::80/tcp"), wish(web, c1, finder(), ":80/tcp"), published(web, c1, "*:40001->80/tcp")}, nil, nil},
		{"a number does not move where somebody else may have it", []step{wish(web, c1, finder(), "127.0.0.1::80/tcp"), wish(web, c1, finder("40000/tcp"), ":80/tcp"), published(web, c1, "*:40001->80/tcp")}, nil, nil},
		{"a number that stays is not reserved once more", []step{
			wish(web, c1, finder(), "0.0.0.0::80/tcp", "[::]::80/tcp", ":81/udp"), wish(web, c1, finder("40000/tcp", "40000/udp"), ":80/tcp", "127.0.0.1::81/udp", "[::1]::81/udp"),
			published(web, c1, "*:40000->80/tcp", "127.0.0.1:40000->81/udp", "[::1]:40000->81/udp"),
		}, nil, nil},
		{"who keeps a number goes before who would move it", []step{
			wish(web, c1, finder(), "127.0.0.1::80/tcp"), wish(web, c1, finder(), ":80/tcp", "127.0.0.1::80/tcp"), published(web, c1, "*:40001->80/tcp", "127.0.0.1:40000->80/tcp"),
		}, nil, nil},
		{"a port that the map named is none that a wish for an ephemeral one keeps", []step{publish(web, c1, "*:80->80/tcp"), wish(web, c1, finder(), ":80/tcp"), published(web, c1, "*:40000->80/tcp")}, nil, nil},
		{"a port that somebody else on the host has is refused", []step{wish(web, c1, finder("8080/tcp"), "8080:80/tcp", ":81/tcp")}, spec.ErrInUse, []string{"8080/tcp is nginx's"}},
		{"a port that another container has is refused by its name", []step{publish(web, c2, "*:8080->80/tcp"), wish(web, c1, finder("8080/tcp"), "8080:80/tcp")}, spec.ErrInUse, []string{"*:8080->80/tcp is published by endpoint c20000000000"}},
		{"a port that stays is not reserved once more", []step{
			publish(web, c1, "*:8080->80/tcp"), wish(web, c1, finder("8080/tcp"), "8080:80/tcp", ":81/tcp"), published(web, c1, "*:8080->80/tcp", "*:40000->81/tcp"),
		}, nil, nil},
		{"a port that goes to more addresses is not reserved, since its own socket is in the way", []step{
			publish(web, c1, "127.0.0.1:8080->80/tcp"), wish(web, c1, finder("8080/tcp"), "8080:80/tcp"), published(web, c1, "*:8080->80/tcp"),
		}, nil, nil},
		{"a port that another gateway of the container has is not reserved once more", []step{
			joins(web, c1, "/a"), joins(web, c2, "/a"), publish(web, c1, "*:8080->80/tcp"), wish(web, c2, finder("8080/tcp"), "8080:80/tcp"), published(web, c1), published(web, c2, "*:8080->80/tcp"),
		}, nil, nil},
		{"a number that the endpoint itself no longer wants is free", []step{wish(web, c1, finder(), "8000-8000:81/tcp"), wish(web, c1, finder(), "8000-8000:82/tcp"), published(web, c1, "*:8000->82/tcp")}, nil, nil},
		{"a number stays when its family goes to another gateway, and when it comes back", []step{
			joins(web, c1, "/a"), wish(web, c1, finder(), ":80/tcp"), wishOnlyIPv4(web, c1, later, ":80/tcp"), published(web, c1, "0.0.0.0:40000->80/tcp"),
			wish(web, c1, later, ":80/tcp"), published(web, c1, "*:40000->80/tcp"),
		}, nil, nil},
		{"two gateways of one container have one number", []step{
			joins(web, c1, "/a"), joins(web, c2, "/a"), wish(web, c1, finder(), ":80/tcp"), wishOnlyIPv4(web, c1, later, ":80/tcp"), wish(web, c2, later, ":80/tcp"),
			published(web, c1, "0.0.0.0:40000->80/tcp"), published(web, c2, "[::]:40000->80/tcp"),
		}, nil, nil},
		{"who becomes the gateway gets the number of who was it", []step{
			joins(web, c1, "/a"), joins(web, c2, "/a"), wish(web, c1, finder(), ":80/tcp"), wish(web, c2, later, ":80/tcp"), published(web, c1), published(web, c2, "*:40000->80/tcp"),
		}, nil, nil},
		{"a container without IPv4 has its number for IPv6 alone", []step{
			undo(remove, web, c1), attach(web, endpoint(c1, "fd00:1::2/64")), wish(web, c1, finder(), ":80/tcp", "127.0.0.1::81/tcp"), published(web, c1, "[::]:40000->80/tcp"),
		}, nil, nil},
		{"nobody wishes what is not there", []step{wish(db, c1, finder(), ":80/tcp")}, spec.ErrNotFound, []string{"network db"}},
	} {
		t.Run(story.promise, func(t *testing.T) {
			later.Start = 40001
			s := spec.State{}
			for _, do := range slices.Concat(host, story.steps[:len(story.steps)-1]) {
				if err := do(t, &s); err != nil {
					t.Fatalf("on the way: %v", err)
				}
			}
			err := story.steps[len(story.steps)-1](t, &s)
			if !errors.Is(err, story.class) || story.class == nil && err != nil {
				t.Fatalf("want %v, got %v", story.class, err)
			}
			for _, text := range story.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error lacks %q: %v", text, err)
				}
			}
			if err == nil {
				checkState(t, &s)
				checkFree(t, &s)
			}
		})
	}
}

// TestHostilePortMapsAreJudgedQuickly has what would take minutes if each entry was
// compared with each other, or each wish asked for every number that another has.
func TestHostilePortMapsAreJudgedQuickly(t *testing.T) {
	const many = 2000
	s := spec.State{}
	for _, do := range []step{add(network(web, "10.1.0.0/24")), attach(web, endpoint(c1, "10.1.0.2/24")), attach(web, endpoint(c2, "10.1.0.3/24"))} {
		if err := do(t, &s); err != nil {
			t.Fatal(err)
		}
	}
	held := make([]spec.Port, 0, many)
	for i := range uint16(many) {
		held = append(held, spec.Port{Proto: spec.TCP, HostPort: 1 + 2*i, ContainerPort: 80, Count: 1})
	}
	if err := s.Publish(web, c1, held, false); err != nil {
		t.Fatal(err)
	}
	wide := &spec.Finder{Ephemeral: []spec.PortRange{{First: 1, Last: 65535}}, Reserve: func([]spec.Port) error { return nil }}
	repeated := func(entry func(i int) spec.Wish) (m spec.PortMap) {
		for i := range many {
			m.Wishes = append(m.Wishes, entry(i))
		}
		return m
	}
	anywhere := spec.Port{Proto: spec.TCP, ContainerPort: 80, Count: 1}
	address := func(i int) spec.Port {
		p := anywhere
		p.Host = netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		return p
	}
	for what, m := range map[string]spec.PortMap{
		"one ephemeral port again and again": repeated(func(int) spec.Wish { return spec.Wish{Port: anywhere} }),
		"one range again and again":          repeated(func(int) spec.Wish { return spec.Wish{Port: anywhere, Range: spec.PortRange{First: 1, Last: 65535}} }),
		"ranges that differ by one": repeated(func(i int) spec.Wish {
			return spec.Wish{Port: anywhere, Range: spec.PortRange{First: 1, Last: uint16(65535 - i)}}
		}),
		"one port on many addresses": repeated(func(i int) spec.Wish { return spec.Wish{Port: address(i)} }),
	} {
		start := time.Now()
		next := s
		ports, err := next.Choose(web, c2, m, wide)
		if err == nil {
			err = next.Publish(web, c2, ports, false)
		}
		if err != nil || len(ports) != many {
			t.Errorf("%s: %d ports, %v", what, len(ports), err)
		}
		again, err := next.Choose(web, c2, m, wide)
		slices.SortFunc(ports, byText)
		slices.SortFunc(again, byText)
		if err != nil || !slices.Equal(again, ports) {
			t.Errorf("%s: not kept the second time: %v", what, err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %v", what, took)
		} else {
			t.Logf("%s: %v", what, took)
		}
	}
	overlapping := slices.Clone(held)
	for i := range many {
		p := address(i)
		p.HostPort, p.Count, p.ContainerPort = uint16(2+i), 30000, 1
		overlapping = append(overlapping, p)
	}
	if _, err := spec.JoinPorts(overlapping); !errors.Is(err, spec.ErrInvalid) {
		t.Errorf("overlapping ports: %v", err)
	}
	if joined, err := spec.JoinPorts(overlapping[many:]); err != nil || len(joined) != many {
		t.Errorf("a range on each of many addresses: %d, %v", len(joined), err)
	}
}

func byText(a, b spec.Port) int { return strings.Compare(a.String(), b.String()) }

// BenchmarkPublish shows that a port costs the same however many are held.
func BenchmarkPublish(b *testing.B) {
	for _, held := range []int{0, 50_000} {
		for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
			b.Run(fmt.Sprintf("on %s beside %d", host, held), func(b *testing.B) {
				s := spec.State{}
				if err := s.AddNetwork(network(web, "10.0.0.0/8")); err != nil {
					b.Fatal(err)
				}
				ports := make([]spec.Port, 0, held)
				for i := range held {
					ports = append(ports, spec.Port{Proto: spec.UDP, Host: netip.AddrFrom4([4]byte{127, 1, 0, byte(i % 8)}), HostPort: uint16(1000 + i), ContainerPort: 80, Count: 1})
				}
				for _, id := range []spec.ID{c1, c2} {
					if err := s.AddEndpoint(web, endpoint(id, fmt.Sprintf("10.1.0.%c/8", id[1]))); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.Publish(web, c1, ports, false); err != nil {
					b.Fatal(err)
				}
				one := []spec.Port{{Proto: spec.UDP, Host: netip.MustParseAddr(host), HostPort: 60000, ContainerPort: 53, Count: 1}}
				for b.Loop() {
					next := s
					if err := next.Publish(web, c2, one, false); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
