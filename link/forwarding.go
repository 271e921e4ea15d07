package link

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/drawbridge-net/drawbridge/plan"
)

func lookAtForwarding(host *plan.Host, found map[string]int) error {
	on := func(family int) (bool, error) {
		value, err := asFound(foundSetting{link: plan.Everywhere, Setting: plan.Setting{Family: family, Name: "forwarding"}}, found)
		return value != 0, err
	}
	var err error
	if host.Forwarding4, err = on(4); err != nil {
		return fmt.Errorf("look at ip_forward: %w", err)
	}
	if host.IPv6, err = exists("/proc/sys/net/ipv6/conf/all/forwarding"); err != nil || !host.IPv6 {
		return err
	}
	if host.Forwarding6, err = on(6); err != nil {
		return fmt.Errorf("look at forwarding of IPv6: %w", err)
	}
	host.ForceForwarding, err = exists("/proc/sys/net/ipv6/conf/all/force_forwarding")
	return err
}

// acceptsRA reports whether the link would take addresses and routes from a
// router, and hence lose them if the host became one.
func acceptsRA(host *plan.Host, link string, found map[string]int) (bool, error) {
	if !host.IPv6 {
		return false, nil
	}
	value, err := asFound(foundSetting{link: link, Setting: plan.Setting{Family: 6, Name: "accept_ra"}}, found)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // vanished, or without IPv6
	}
	return value != 0, err
}

// lookAtLink notes what a link that is not ours is to forwarding. What comes by a port
// enters by its bridge.
func lookAtLink(host *plan.Host, d *device, found map[string]int, uplink, port bool) error {
	if d.loopback {
		return nil
	}
	h := plan.HostLink{Name: d.name, Bridge: d.kind == "bridge"}
	switch {
	case uplink:
		var err error
		if h.AcceptRA, err = acceptsRA(host, d.name, found); err != nil {
			return err
		}
		host.Uplinks = append(host.Uplinks, h)
	case port:
		return nil
	case host.IPv6 && !host.ForceForwarding:
		host.Others = append(host.Others, h)
	}
	return lookAtRouter(host, d.name, found)
}

// lookAtRouter notes a link that forwards although the host does not.
func lookAtRouter(host *plan.Host, link string, found map[string]int) error {
	if !host.Forwarding4 {
		on, err := isOn(link, plan.Setting{Family: 4, Name: "forwarding"}, found)
		if err != nil {
			return fmt.Errorf("look at ipv4.forwarding of %s: %w", link, err)
		}
		if on {
			host.Routers4 = append(host.Routers4, link)
		}
	}
	if host.ForceForwarding && !host.Forwarding6 {
		on, err := isOn(link, plan.Setting{Family: 6, Name: "force_forwarding"}, found)
		if err != nil {
			return fmt.Errorf("look at ipv6.force_forwarding of %s: %w", link, err)
		}
		if on {
			host.Routers6 = append(host.Routers6, link)
		}
	}
	return nil
}

// isOn reports whether a switch of a link was on as found.
func isOn(link string, s plan.Setting, found map[string]int) (bool, error) {
	value, err := asFound(foundSetting{link: link, Setting: s}, found)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // vanished, or without IPv6
	}
	return value != 0, err
}

// asFound reads a setting, or recalls what it was before we changed it.
func asFound(u foundSetting, found map[string]int) (int, error) {
	if value, ok := u.in(found); ok {
		return value, nil
	}
	return readSetting(u.link, u.Setting)
}
