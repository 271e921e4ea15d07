package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// resolvConf names the servers that the host asks for names.
const resolvConf = "/etc/resolv.conf"

// Obstacle is something that a subnet chosen for containers should keep away from.
type Obstacle struct {
	Prefix netip.Prefix
	What   string // e.g. address 192.168.1.7/24 of eth0
	// Weak ones may be overlapped when nothing else is free.
	Weak bool
}

// Taken lists the host's addresses, connected routes of all tables, the name
// servers of /etc/resolv.conf and, as weak obstacles, routes through a gateway. A
// default route is none, for it overlaps everything.
func (k *Kernel) Taken(context.Context) ([]Obstacle, error) {
	devices, err := k.devices()
	if err != nil {
		return nil, err
	}
	addrs, err := k.addresses()
	if err != nil {
		return nil, err
	}
	var all []Obstacle
	names := map[int]string{}
	for _, d := range devices {
		names[d.index] = d.name
		for _, a := range addrs[d.index] {
			if !a.Addr().IsLinkLocalUnicast() {
				all = append(all, Obstacle{Prefix: a.Masked(), What: fmt.Sprintf("address %s of %s", a, d.name)})
			}
		}
	}
	routes, err := k.routeObstacles(names)
	if err != nil {
		return nil, err
	}
	servers, err := nameServers(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("look for name servers: %w", err)
	}
	return append(append(all, routes...), servers...), nil
}

func (k *Kernel) routeObstacles(names map[int]string) ([]Obstacle, error) {
	list, err := retried(func() ([]netlink.Route, error) {
		every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return k.routes.RouteListFiltered(netlink.FAMILY_ALL, every, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []Obstacle
	for _, r := range list {
		to, ok := prefixOf(r.Dst)
		if !ok || to.Bits() == 0 || to.Addr().IsLinkLocalUnicast() || to.Addr().IsMulticast() || !beyond(r.Type) {
			continue
		}
		connected := r.LinkIndex != 0 && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
		what := fmt.Sprintf("route %s", to)
		if name := names[r.LinkIndex]; name != "" {
			what += " by " + name
		}
		all = append(all, Obstacle{Prefix: to, What: what, Weak: !connected || r.Type != unix.RTN_UNICAST})
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

func nameServers(file string) ([]Obstacle, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Obstacle
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			addr = addr.WithZone("").Unmap()
			all = append(all, Obstacle{Prefix: netip.PrefixFrom(addr, addr.BitLen()), What: "name server " + addr.String()})
		}
	}
	return all, lines.Err()
}
