package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// The files that name the servers which the host asks for names. Where that is
// systemd-resolved, the second one says whom it asks in turn.
const (
	resolvConf   = "/etc/resolv.conf"
	resolvedConf = "/run/systemd/resolve/resolv.conf"
)

// Taken lists what a chosen subnet should keep away from: the host's addresses,
// connected routes of all tables, name servers and, as weak obstacles, routes
// through a gateway. A default route is none, for it overlaps everything, and links of ours
// that are about to go are none.
func (k *Kernel) Taken(_ context.Context, leaving []string) ([]plan.Obstacle, error) {
	all, err := k.obstacles(func(d *device) bool { return !d.ours() || !slices.Contains(leaving, d.name) })
	if err != nil {
		return nil, err
	}
	for _, file := range []string{resolvConf, resolvedConf} {
		servers, err := nameServers(file)
		if err != nil {
			return nil, fmt.Errorf("look for name servers: %w", err)
		}
		all = append(all, servers...)
	}
	return all, nil
}

// Foreign lists what a subnet that a person names may overlap: addresses and connected
// routes of links that are not ours, to which the host would lose the way, and, as weak
// obstacles, routes through a gateway.
func (k *Kernel) Foreign(context.Context) ([]plan.Obstacle, error) {
	return k.obstacles(func(d *device) bool { return !d.ours() })
}

// obstacles are the addresses and routes of the counted links.
func (k *Kernel) obstacles(counts func(*device) bool) ([]plan.Obstacle, error) {
	devices, err := k.devices()
	if err != nil {
		return nil, err
	}
	addrs, err := k.addresses()
	if err != nil {
		return nil, err
	}
	var all []plan.Obstacle
	known := map[int]*device{}
	for _, d := range devices {
		known[d.index] = d
		for _, a := range addrs[d.index] {
			if counts(d) && !a.Addr().IsLinkLocalUnicast() {
				all = append(all, plan.Obstacle{Prefix: a.Masked(), What: fmt.Sprintf("address %s of %s", a, d.name), Link: d.name})
			}
		}
	}
	routes, err := k.routeObstacles(known, counts)
	return append(all, routes...), err
}

func (k *Kernel) routeObstacles(known map[int]*device, counts func(*device) bool) ([]plan.Obstacle, error) {
	list, err := retried(func() ([]netlink.Route, error) {
		every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return k.routes.RouteListFiltered(netlink.FAMILY_ALL, every, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []plan.Obstacle
	for _, r := range list {
		to, ok := prefixOf(r.Dst)
		if !ok || to.Bits() == 0 || to.Addr().IsLinkLocalUnicast() || to.Addr().IsMulticast() || !beyond(r.Type) {
			continue
		}
		connected := r.LinkIndex != 0 && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
		o := plan.Obstacle{Prefix: to, What: fmt.Sprintf("route %s", to), Weak: !connected || r.Type != unix.RTN_UNICAST}
		if d := known[r.LinkIndex]; d != nil {
			if !counts(d) {
				continue
			}
			o.What, o.Link, o.Tunnel = o.What+" by "+d.name, d.name, d.tunnel
		}
		all = append(all, o)
	}
	return all, nil
}

// beyond reports whether a route says where packets go, and not, as those of the
// table local, what addresses the host has.
func beyond(routeType int) bool {
	switch routeType {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return false
	}
	return true
}

func nameServers(file string) ([]plan.Obstacle, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []plan.Obstacle
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			addr = addr.WithZone("").Unmap()
			all = append(all, plan.Obstacle{Prefix: netip.PrefixFrom(addr, addr.BitLen()), What: "name server " + addr.String()})
		}
	}
	return all, lines.Err()
}
