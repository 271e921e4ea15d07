package ipam_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
)

// A story is a script of one command a line:
//
//	pool NAME [PREFIX [RANGE]]          request a pool; v6: any IPv6 pool
//	address NAME [ADDR] [gateway] [by OWNER]
//	release NAME [ADDR]                 an address, or the pool
//	use NAME NETWORK [AUX...]
//	reclaim NAME ADDR                   whether it was taken back
//	collect NETWORK [ADDR...]           only these still live
//	list                                what Pools returns
//	obstacle [weak] PREFIX WHAT...      from now on on the host
//	later DURATION   restart   reboot   fail   mend
//
// What follows " = " must be the answer. What follows " ! " must be in the
// error, " taken! " and " spent! " say of which class it must be.
type story struct{ name, script string }

func TestStories(t *testing.T) {
	for _, s := range slices.Concat(addressStories(), poolStories(), lifeStories()) {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(t)
			lines := bufio.NewScanner(strings.NewReader(s.script))
			for lines.Scan() {
				if line := strings.TrimSpace(lines.Text()); line != "" {
					w.step(t, line)
				}
			}
		})
	}
}

// world is what a story is told in.
type world struct {
	store     ipamtest.Memory
	alloc     *ipam.Allocator
	obstacles []ipam.Obstacle
	clock     time.Time
	pools     map[string]ipam.Pool // by the name in the story
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), pools: map[string]ipam.Pool{}}
	w.restart(t)
	return w
}

func (w *world) restart(t *testing.T) {
	t.Helper()
	alloc, err := ipam.New(ipam.Config{
		Store: &w.store,
		Host:  func() ([]ipam.Obstacle, error) { return w.obstacles, nil },
		Now:   func() time.Time { return w.clock },
	})
	if err != nil {
		t.Fatalf("restart: %v", err)
	}
	w.alloc = alloc
}

func (w *world) step(t *testing.T, line string) {
	t.Helper()
	command, sign, want := cut(line)
	got, err := w.do(t, strings.Fields(command))
	classes := map[string]error{"taken!": ipam.ErrOverlap, "spent!": ipam.ErrNoAddress}
	switch sign {
	case "", "=":
		if err != nil {
			t.Fatalf("%s\n got error: %v", command, err)
		}
		if got = w.readable(got); sign == "=" && got != want {
			t.Fatalf("%s\n(-want +got):\n- %s\n+ %s", command, want, got)
		}
	default:
		if err == nil {
			t.Fatalf("%s\n got %q, want error %q", command, got, want)
		}
		if !strings.Contains(err.Error(), want) {
			t.Fatalf("%s\nerror (-want +got):\n- %s\n+ %s", command, want, err)
		}
		for s, class := range classes {
			if errors.Is(err, class) != (s == sign) {
				t.Fatalf("%s\nerror %q is of class %q: %v", command, err, class, s != sign)
			}
		}
	}
}

// cut takes a line of a story apart.
func cut(line string) (command, sign, want string) {
	fields := strings.Fields(line)
	for i, f := range fields {
		switch f {
		case "=", "!", "taken!", "spent!":
			return strings.Join(fields[:i], " "), f, strings.Join(fields[i+1:], " ")
		}
	}
	return line, "", ""
}

// readable replaces the drawn prefix, fd and ten random digits, by a name.
func (w *world) readable(answer string) string {
	p, err := netip.ParsePrefix(answer)
	if err != nil || !strings.HasPrefix(answer, "fd") || p.Bits() < 48 || p.Bits() > 64 {
		return answer
	}
	return fmt.Sprintf("ULA:%s::/%d", p.Addr().StringExpanded()[15:19], p.Bits())
}

func (w *world) do(t *testing.T, f []string) (string, error) {
	t.Helper()
	verb, args := f[0], f[1:]
	switch verb {
	case "pool":
		return w.pool(args)
	case "address":
		return w.address(args)
	case "release":
		if len(args) == 1 {
			return "", w.alloc.ReleasePool(w.id(args[0]))
		}
		return "", w.alloc.ReleaseAddress(w.id(args[0]), netip.MustParseAddr(args[1]))
	case "use":
		return "", w.alloc.Use(args[1], ipam.Claim{Prefix: w.pools[args[0]].Prefix, Auxiliary: addrs(args[2:])})
	case "reclaim":
		back, err := w.alloc.Reclaim(w.id(args[0]), netip.MustParseAddr(args[1]))
		return strconv.FormatBool(back), err
	case "collect":
		return w.collect(args)
	case "list":
		return list(w.alloc.Pools()), nil
	case "obstacle":
		w.obstacle(args)
	case "later":
		d, err := time.ParseDuration(args[0])
		w.clock = w.clock.Add(d)
		return "", err
	case "restart":
		w.restart(t)
	case "engine":
		return w.engine(args)
	case "reboot":
		w.store.Reboot()
		w.restart(t)
	case "fail":
		w.store.Fail(errors.New("disk on fire"))
	case "mend":
		w.store.Fail(nil)
	default:
		t.Fatalf("no such command: %s", verb)
	}
	return "", nil
}

// id returns the ID of the pool of that name, or for want of one the name.
func (w *world) id(name string) string {
	if p, ok := w.pools[name]; ok {
		return p.ID
	}
	return name
}

func (w *world) pool(args []string) (string, error) {
	var r ipam.PoolRequest
	switch {
	case len(args) > 1 && args[1] == "v6":
		r.V6 = true
	case len(args) > 1:
		r.Prefix = netip.MustParsePrefix(args[1])
	}
	if len(args) > 2 {
		r.Range = netip.MustParsePrefix(args[2])
	}
	p, err := w.alloc.RequestPool(r)
	if err != nil {
		return "", err
	}
	w.pools[args[0]] = p
	return p.Prefix.String(), nil
}

func (w *world) address(args []string) (string, error) {
	r := ipam.AddressRequest{Pool: w.id(args[0])}
	for i := 1; i < len(args); i++ {
		switch args[i] {
		case "gateway":
			r.Gateway = true
		case "by":
			i++
			r.Owner = args[i]
		default:
			r.Addr = netip.MustParseAddr(args[i])
		}
	}
	p, err := w.alloc.RequestAddress(r)
	if err != nil {
		return "", err
	}
	return p.String(), nil
}

func (w *world) collect(args []string) (string, error) {
	got, err := w.alloc.Collect(live{network: args[0], addrs: addrs(args[1:])})
	var names []string
	for _, p := range got.Pools {
		names = append(names, p.Prefix.String())
	}
	for _, l := range got.Leases {
		names = append(names, l.Addr.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", "), err
}

// engine has another engine ask from now on.
func (w *world) engine(args []string) (string, error) {
	got, err := w.alloc.Restarted(live{network: args[0], addrs: addrs(args[1:])})
	var names []string
	for _, l := range got {
		names = append(names, l.Addr.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", "), err
}

func (w *world) obstacle(args []string) {
	var o ipam.Obstacle
	if args[0] == "weak" {
		o.Weak, args = true, args[1:]
	}
	o.Prefix, o.What = netip.MustParsePrefix(args[0]), strings.Join(args[1:], " ")
	w.obstacles = append(w.obstacles, o)
}

// live is all that is left of our networks.
type live struct {
	network string
	addrs   []netip.Addr
}

func (l live) Network(id string) bool { return id == l.network }

func (l live) Address(id string, a netip.Addr) bool {
	return id == l.network && slices.Contains(l.addrs, a)
}

func addrs(list []string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// list prints pools without their IDs, which are random.
func list(pools []ipam.PoolStatus) string {
	var lines []string
	for _, p := range pools {
		line := p.Prefix.String()
		if p.Network != "" {
			line += " of " + p.Network
		}
		var held []string
		for _, r := range p.Reservations {
			held = append(held, fmt.Sprintf("%s %s", r.Addr, r.Role))
		}
		for _, l := range p.Leases {
			held = append(held, strings.TrimSpace(fmt.Sprintf("%s leased %s", l.Addr, l.Owner)))
		}
		lines = append(lines, strings.TrimSpace(line+" "+strings.Join(held, ", ")))
	}
	return strings.Join(lines, "; ")
}
