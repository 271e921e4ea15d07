package publish

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Reserve holds ports for an owner and serves nobody there, until the next Apply that has
// them in its plan: all of them, or none. What we hold already, for whomever, nobody else
// can take: who of ours may have it, is not asked here. What the owner has already is his
// for at least as long as the reservation.
func (p *Ports) Reserve(owner plan.Owner, ports []spec.Port) (release func(), err error) {
	wanted := make([]plan.Held, len(ports))
	for i, port := range ports {
		wanted[i].Port = port
	}
	wanted = holdable(wanted, sync.OnceValue(hasSCTP))
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []need
	for at := range places(wanted) {
		if p.held[owner][at] == nil {
			missing = append(missing, need{place: at})
		}
	}
	if err := p.try(owner, missing); err != nil {
		return nil, err
	}
	reserved := sockets{}
	for at := range places(wanted) {
		if s := p.held[owner][at]; s != nil { // else another owner of ours has it
			s.reserved++
			reserved[at] = s
		}
	}
	return func() { p.giveUp(owner, reserved) }, nil
}

// try opens places that are no plan's yet, but for those of which a socket of ours has all.
func (p *Ports) try(owner plan.Owner, missing []need) error {
	waits, had := p.taken[owner]
	err := p.open(owner, missing, &holders{})
	if errors.Is(err, unix.EADDRINUSE) {
		// Once more only where it is a socket of ours that stands in the way.
		if rest := slices.DeleteFunc(slices.Clone(missing), p.covers); len(rest) < len(missing) {
			err = p.open(owner, rest, &holders{})
		}
	}
	if had {
		p.taken[owner] = waits
	} else {
		delete(p.taken, owner) // what was only tried is not waited for
	}
	return err
}

// giveUp ends a reservation.
func (p *Ports) giveUp(owner plan.Owner, reserved sockets) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range reserved {
		s.reserved--
	}
	p.drop(owner, func(at place, s *socket) bool { return s == reserved[at] && !s.planned && s.reserved == 0 })
}

// covers reports whether a socket of ours has all of a place.
func (p *Ports) covers(n need) bool {
	hosts := []netip.Addr{n.host, {}}
	if n.host.IsValid() {
		hosts = append(hosts, spec.Every(n.host.Is4()))
	}
	for _, held := range p.held {
		for _, host := range hosts {
			if held[place{n.proto, host, n.port}] != nil {
				return true
			}
		}
	}
	return false
}

// Where the kernel tells which ports it gives away by itself (ip-sysctl.rst).
const (
	localRange    = "/proc/sys/net/ipv4/ip_local_port_range"
	localReserved = "/proc/sys/net/ipv4/ip_local_reserved_ports"
)

// Ephemeral are the ports that the kernel of this network namespace chooses from, for
// either family, without those that an administrator keeps from it.
func (p *Ports) Ephemeral() ([]spec.PortRange, error) {
	whole, err := readRanges(localRange)
	if err != nil {
		return nil, err
	}
	reserved, err := readRanges(localReserved)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return without(whole, reserved), nil
}

// readRanges reads e.g. 32768\t60999, or 8080,9000-9010.
func readRanges(path string) ([]spec.PortRange, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read range of ports: %w", err)
	}
	ranges, err := parseRanges(strings.Join(strings.Fields(string(text)), "-"))
	if err != nil {
		return nil, fmt.Errorf("read range of ports: %s: %w", path, err)
	}
	return ranges, nil
}

func parseRanges(text string) ([]spec.PortRange, error) {
	if text == "" {
		return nil, nil
	}
	var all []spec.PortRange
	for part := range strings.SplitSeq(text, ",") {
		first, last, wide := strings.Cut(part, "-")
		if !wide {
			last = first
		}
		low, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, err
		}
		high, err := strconv.ParseUint(last, 10, 16)
		if err != nil {
			return nil, err
		}
		all = append(all, spec.PortRange{First: uint16(low), Last: uint16(high)})
	}
	return all, nil
}

// without takes holes out of ranges.
func without(ranges, holes []spec.PortRange) []spec.PortRange {
	holes = slices.SortedFunc(slices.Values(holes), func(a, b spec.PortRange) int { return int(a.First) - int(b.First) })
	var all []spec.PortRange
	for _, r := range ranges {
		next := int(r.First)
		for _, h := range holes {
			if h.Last < r.First || h.First > r.Last {
				continue
			}
			if int(h.First) > next {
				all = append(all, spec.PortRange{First: uint16(next), Last: h.First - 1})
			}
			next = max(next, int(h.Last)+1)
		}
		if next <= int(r.Last) {
			all = append(all, spec.PortRange{First: uint16(next), Last: r.Last})
		}
	}
	return all
}
