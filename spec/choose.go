package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Finder is what numbers of the host's ports are chosen with.
type Finder struct {
	// Ephemeral are the numbers for wishes that name none, in ascending order.
	Ephemeral []PortRange
	// Start is where the search among them begins. Choose moves it behind what it found, so
	// that a number that was given up rests for as long as there are others.
	Start uint16
	// Reserve keeps everybody else on the host from taking ports: all of them, or after an
	// error none. An error of the class ErrInUse says that somebody has one of them.
	Reserve func(ports []Port) error
}

// fromStart are the ephemeral numbers in the order of the search.
func (f *Finder) fromStart() []PortRange {
	var ahead, behind []PortRange
	for _, r := range f.Ephemeral {
		switch {
		case r.Last < f.Start:
			behind = append(behind, r)
		case r.First < f.Start:
			behind, ahead = append(behind, PortRange{r.First, f.Start - 1}), append(ahead, PortRange{f.Start, r.Last})
		default:
			ahead = append(ahead, r)
		}
	}
	return slices.Concat(ahead, behind)
}

// Choose makes ports of all that a port map publishes, with a number for each wish: the
// one that it has already, else the first that is free of its range, else of the ephemeral
// ones. Ports that the map names go before all wishes. What nobody of ours has yet is
// reserved by then; what was reserved and comes to nothing is left to the caller.
func (s *State) Choose(network, id ID, m PortMap, f *Finder) ([]Port, error) {
	_, ep, err := s.Endpoint(network, id)
	if err != nil {
		return nil, err
	}
	c := chooser{Finder: f, state: *s, network: network, id: id, sandbox: ep.Sandbox, ephemeral: f.fromStart(), had: map[within][]*number{}, passed: map[place]int{}, busy: map[place]error{}}
	if err := c.state.Publish(network, id, m.Ports, m.OnlyIPv4); err != nil {
		return nil, err
	}
	if err := c.reserveNamed(s); err != nil || len(m.Wishes) == 0 {
		return m.Ports, err
	}
	shared, err := c.state.hasIPv4Gateway(network, ep)
	if err != nil {
		return nil, err
	}
	c.note(ep.Ports)
	for _, mate := range s.mates(network, ep) {
		c.note(mate.Ports)
	}
	c.gather()
	wishes := narrowed(m.Wishes, func(ports []Port) []Port { return portion(ep, ports, m.OnlyIPv4, shared) })
	chosen, err := c.choose(groups(wishes))
	return append(slices.Clone(m.Ports), chosen...), err
}

// reserveNamed reserves the ports that the map names. One that meets what the endpoint had
// before, or another gateway of its container, is held for it already, or cannot be until
// that is given up.
func (c *chooser) reserveNamed(before *State) error {
	_, ep, err := c.state.Endpoint(c.network, c.id)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(ep.Ports), func(p Port) bool { return before.holder(p) != nil })
	if len(fresh) == 0 {
		return nil
	}
	return c.Reserve(fresh)
}

// narrowed is what some judgement of ports leaves of wishes.
func narrowed(wishes []Wish, judge func([]Port) []Port) []Wish {
	var all []Wish
	for _, w := range wishes {
		for _, p := range judge([]Port{w.Port}) {
			all = append(all, Wish{p, w.Range})
		}
	}
	return all
}

// chooser chooses numbers for the wishes of one endpoint.
type chooser struct {
	*Finder
	state       State // in which the endpoint has what was chosen so far
	network, id ID
	sandbox     string
	ephemeral   []PortRange
	had         map[within][]*number // before, by what they led to
	passed      map[place]int        // numbers that are taken -> the first that may not be
	busy        map[place]error      // what somebody else on the host has
}

// within is a port of the container.
type within struct {
	proto Proto
	port  uint16
}

// number is one of the host's that led to a port of the container, with where it did, be it
// by another gateway of the container.
type number struct {
	port  uint16
	hosts []netip.Addr
}

// covers reports whether the number was had wherever a group wants it. Else somebody else
// on the host may have it there.
func (n *number) covers(g *group) bool {
	had := func(host netip.Addr) bool { return slices.Contains(n.hosts, host) }
	if had(netip.Addr{}) || had(Every(true)) && had(Every(false)) {
		return true
	}
	return !slices.ContainsFunc(g.hosts, func(wanted netip.Addr) bool {
		return !had(wanted) && (!wanted.IsValid() || !had(Every(wanted.Is4())))
	})
}

// place is a number on an address of the host.
type place struct {
	proto Proto
	host  netip.Addr
	port  int
}

// note remembers ports that wishes may keep.
func (c *chooser) note(ports []Port) {
	for _, p := range ports {
		for i := range p.Count {
			at := within{p.Proto, p.ContainerPort + i}
			c.had[at] = append(c.had[at], &number{p.HostPort + i, []netip.Addr{p.Host}})
		}
	}
}

// gather makes one number of those that are equal, in the order in which they were noted.
func (c *chooser) gather() {
	for at, all := range c.had {
		seen := map[uint16]*number{}
		c.had[at] = slices.DeleteFunc(all, func(n *number) bool {
			first, again := seen[n.port]
			if again {
				first.hosts = append(first.hosts, n.hosts...)
			} else {
				seen[n.port] = n
			}
			return again
		})
	}
}

// choose lets every wish keep what it has before any takes that to other addresses, and
// these before any looks for a number.
func (c *chooser) choose(groups []*group) ([]Port, error) {
	var all []Port
	for _, way := range []func(*group) ([]Port, error){c.keep, c.move, c.find} {
		var open []*group
		for _, g := range groups {
			ports, err := way(g)
			if err != nil {
				return nil, err
			}
			if ports == nil {
				open = append(open, g)
			}
			all = append(all, ports...)
		}
		groups = open
	}
	return all, nil
}

// keep gives a wish the number that it has. That is held, and need not be reserved.
func (c *chooser) keep(g *group) ([]Port, error) {
	held := func([]Port) error { return nil }
	return c.reuse(g, held, func(n *number) bool { return n.covers(g) }), nil
}

// move gives a wish a number that its port of the container has elsewhere.
func (c *chooser) move(g *group) ([]Port, error) {
	return c.reuse(g, c.Reserve, func(*number) bool { return true }), nil
}

// reuse gives a wish the first of the numbers had that suits and can be reserved. Each is
// tried once.
func (c *chooser) reuse(g *group, reserve func([]Port) error, suits func(*number) bool) []Port {
	at := within{g.Proto, g.ContainerPort}
	for i := 0; i < len(c.had[at]); {
		n := c.had[at][i]
		if !slices.ContainsFunc(c.ranges(g), func(r PortRange) bool { return r.has(n.port) }) || !suits(n) {
			i++
			continue
		}
		c.had[at] = slices.Delete(c.had[at], i, i+1)
		before, ports := c.state, g.at(n.port)
		if c.claim(ports) == nil && reserve(ports) == nil {
			return ports
		}
		c.state = before
	}
	return nil
}

// claim makes ports the endpoint's, for which other gateways of its container make room. After
// an error the state must be thrown away.
func (c *chooser) claim(ports []Port) error {
	for _, p := range ports {
		if err := c.state.hold(portHeld{p, c.network, c.id}, c.sandbox); err != nil {
			return err
		}
	}
	return nil
}

// ranges are the numbers that a wish may have, in the order of the search.
func (c *chooser) ranges(g *group) []PortRange {
	if g.Range != (PortRange{}) {
		return []PortRange{g.Range}
	}
	return c.ephemeral
}

// find takes the first number that nobody has on any address of a wish.
func (c *chooser) find(g *group) ([]Port, error) {
	for _, r := range c.ranges(g) {
		for n := c.next(g, int(r.First)); n <= int(r.Last); n = c.next(g, n+1) {
			ports := g.at(uint16(n))
			free, err := c.take(ports)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", g, err)
			}
			if !free {
				continue
			}
			if g.Range == (PortRange{}) {
				c.Start = uint16(n) + 1
			}
			return ports, c.claim(ports)
		}
	}
	return nil, c.exhausted(g)
}

// take reserves ports of one number, if they are free.
func (c *chooser) take(ports []Port) (bool, error) {
	for _, p := range ports {
		if held := c.state.holder(p); held != nil {
			c.passed[placeOf(p)] = int(held.port.Last()) + 1
			return false, nil
		}
	}
	err := c.Reserve(ports)
	if !errors.Is(err, ErrInUse) {
		return err == nil, err
	}
	p := ports[0]
	c.busy[placeOf(p)] = err
	if len(ports) == 1 { // else it may be another that somebody has
		c.passed[placeOf(p)] = int(p.HostPort) + 1
	}
	return false, nil
}

func placeOf(p Port) place { return place{p.Proto, p.Host, int(p.HostPort)} }

// next is the first number from n on that is not known to be taken on any address of a
// wish.
func (c *chooser) next(g *group, n int) int {
	for i := 0; i < len(g.hosts); i++ {
		if ahead := c.behind(place{g.Proto, g.hosts[i], n}); ahead > n {
			n, i = ahead, -1
		}
	}
	return n
}

// behind is the first number from a place on that is not known to be taken. The way there
// is shortened for whoever comes next, so that all together go it once.
func (c *chooser) behind(from place) int {
	end := from
	for {
		ahead, passed := c.passed[end]
		if !passed {
			break
		}
		end.port = ahead
	}
	for from != end {
		from.port, c.passed[from] = c.passed[from], end.port
	}
	return end.port
}

// maxTold is how many of those are named who have the numbers of a range.
const maxTold = 8

// RangeError is the refusal of a wish none of whose numbers is free.
type RangeError struct {
	What  string  // e.g. a port of 8000-8002 for 80/tcp on every address
	Of    string  // e.g. 8000-8002
	Taken []error // why they are not; of a wide range only the first
	More  bool    // there are others
}

func (e *RangeError) Error() string {
	text := fmt.Sprintf("%s: %v: none of %s is free", e.What, ErrInUse, e.Of)
	var reasons []string
	for _, err := range e.Taken {
		why := err.Error()
		if held := (*HeldError)(nil); errors.As(err, &held) {
			why = held.holder()
		}
		reasons = append(reasons, why)
	}
	if e.More {
		reasons = append(reasons, "and so on")
	}
	if len(reasons) > 0 {
		text += ": " + strings.Join(reasons, "; ")
	}
	return text
}

// Unwrap makes it one of the class ErrInUse.
func (e *RangeError) Unwrap() []error { return append([]error{ErrInUse}, e.Taken...) }

// exhausted tells who has the numbers of a range. Of ephemeral ones, there are too many.
func (c *chooser) exhausted(g *group) error {
	e := &RangeError{What: g.String(), Of: g.Range.String()}
	if g.Range == (PortRange{}) {
		e.Of = text(c.Ephemeral)
		return e
	}
	for n := int(g.Range.First); n <= int(g.Range.Last) && !e.More; n++ {
		if e.More = len(e.Taken) == maxTold; !e.More {
			n = c.tell(g, e, n)
		}
	}
	return e
}

// tell adds who has a number, and returns the last one that the same has.
func (c *chooser) tell(g *group, e *RangeError, n int) int {
	for _, p := range g.at(uint16(n)) {
		held := c.state.holder(p)
		switch {
		case held == nil:
			if err := c.busy[placeOf(p)]; err != nil {
				e.Taken = append(e.Taken, err)
				return n
			}
			continue
		case held.isOf(c.network, c.id):
			e.Taken = append(e.Taken, fmt.Errorf("the container itself has %s", held.port))
		default:
			e.Taken = append(e.Taken, held.refuse(p))
		}
		return int(held.port.Last())
	}
	return n
}

func text(ranges []PortRange) string {
	if len(ranges) == 0 {
		return "net.ipv4.ip_local_port_range less net.ipv4.ip_local_reserved_ports"
	}
	var all []string
	for _, r := range ranges {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}
