package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
)

// procSys is where sysctls can be read, also where it is mounted read-only.
const procSys = "/proc/sys"

func settingFile(root, link string, s plan.Setting) string {
	return fmt.Sprintf("%s/net/ipv%d/conf/%s/%s", root, s.Family, link, s.Name)
}

func readSetting(link string, s plan.Setting) (int, error) {
	text, err := os.ReadFile(settingFile(procSys, link, s))
	if errors.Is(err, fs.ErrNotExist) && s.Family == 6 && s.Name == "disable_ipv6" {
		// Below an MTU of 1280 the kernel takes IPv6 off an interface for good, and
		// its settings with it.
		if there, _ := exists(procSys + "/net/ipv4/conf/" + link); there {
			return 1, nil
		}
	}
	if err != nil {
		return 0, cause(err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field(s), err)
	}
	return value, nil
}

// writeSetting writes files, which tells all who follow such events. Where they are
// read-only, as in a managed plugin that was not given the host's, IPv4 can be set by
// rtnetlink too. Of IPv6, rtnetlink sets nothing that we need (inet6_set_link_af in
// net/ipv6/addrconf.c of the kernel).
func (k *Kernel) writeSetting(link string, s plan.Setting) error {
	file, err := os.OpenFile(settingFile(k.sysctls, link, s), os.O_WRONLY, 0)
	if err == nil {
		defer file.Close()
		_, err = file.WriteString(strconv.Itoa(s.Value))
	}
	switch {
	case !errors.Is(err, unix.EROFS):
		return cause(err)
	case s.Family != 4:
		return k.readOnly()
	}
	d, err := k.device(link)
	if err != nil {
		return err
	}
	if d == nil {
		return k.readOnly() // a host-wide setting has no link
	}
	return k.setDevconf(d, s)
}

// readOnly says where settings cannot be written, and how they can.
func (k *Kernel) readOnly() error {
	return fmt.Errorf("%w: %s cannot be written: mount it so that it can, or name by --sysctls where it can", unix.EROFS, k.sysctls)
}

// devconf are the numbers of IPv4 settings (IPV4_DEVCONF_… in linux/ip.h).
func devconf(name string) (int, bool) {
	switch name {
	case "forwarding":
		return 1, true
	case "rp_filter":
		return 8, true
	case "promote_secondaries":
		return 20, true
	case "route_localnet":
		return 26, true
	}
	return 0, false
}

func (k *Kernel) setDevconf(d *device, s plan.Setting) error {
	number, ok := devconf(s.Name)
	if !ok {
		return k.readOnly()
	}
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := families.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(number, nl.Uint32Attr(uint32(s.Value)))
	return k.change(d, families)
}

func exists(file string) (bool, error) {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// cause leaves a path error's file name out: the object and the field say it.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
