package link

import (
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// parseDevice reads the body of an RTM_NEWLINK or RTM_DELLINK message.
func parseDevice(m []byte) (*device, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("message of %d bytes: %w", len(m), unix.EBADMSG)
	}
	h := nl.DeserializeIfInfomsg(m)
	d := &device{
		family: h.Family, index: int(h.Index), peerHere: true,
		up: h.Flags&unix.IFF_UP != 0, loopback: h.Flags&unix.IFF_LOOPBACK != 0,
		tunnel: h.Flags&unix.IFF_POINTOPOINT != 0,
	}
	err := each(m[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(value)
		case unix.IFLA_IFALIAS:
			d.alias = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			d.mac = value
		case unix.IFLA_MTU:
			d.mtu = number(value)
		case unix.IFLA_MASTER:
			d.master = number(value)
		case unix.IFLA_LINK:
			d.peer = number(value)
		case unix.IFLA_OPERSTATE:
			const up = 6 // IF_OPER_UP in linux/if.h; one that has just come is not known to be
			d.carrier = len(value) > 0 && value[0] == up
		case unix.IFLA_CARRIER_UP_COUNT:
			d.used = number(value) > 0
		case unix.IFLA_LINK_NETNSID:
			d.peerHere = false
		case unix.IFLA_LINKINFO:
			return d.parseInfo(value)
		}
		return nil
	})
	return d, err
}

// parseInfo reads what depends on the kind of link, or on the kind of its master.
func (d *device) parseInfo(info []byte) error {
	var data, port []byte
	var master string
	err := each(info, func(kind uint16, value []byte) error {
		switch kind {
		case nl.IFLA_INFO_KIND:
			d.kind = unix.ByteSliceToString(value)
		case nl.IFLA_INFO_DATA:
			data = value
		case nl.IFLA_INFO_SLAVE_KIND:
			master = unix.ByteSliceToString(value)
		case nl.IFLA_INFO_SLAVE_DATA:
			port = value
		}
		return nil
	})
	if err == nil && d.kind == "bridge" {
		err = each(data, d.parseBridge)
	}
	if err == nil && master == "bridge" {
		err = each(port, d.parsePort)
	}
	return err
}

func (d *device) parseBridge(kind uint16, value []byte) error {
	switch kind {
	case nl.IFLA_BR_STP_STATE:
		d.stp = number(value) != 0
	case nl.IFLA_BR_FORWARD_DELAY:
		d.delay = number(value)
	}
	return nil
}

func (d *device) parsePort(kind uint16, value []byte) error {
	on := len(value) > 0 && value[0] != 0
	switch kind {
	case nl.IFLA_BRPORT_MODE:
		d.hairpin = on
	case nl.IFLA_BRPORT_ISOLATED:
		d.isolated = on
	}
	return nil
}

// each goes over a row of attributes.
func each(row []byte, visit func(kind uint16, value []byte) error) error {
	attrs, err := nl.ParseRouteAttr(row)
	if err != nil {
		return fmt.Errorf("parse attributes: %w", err)
	}
	for _, a := range attrs {
		if err := visit(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.Value); err != nil {
			return err
		}
	}
	return nil
}

// number reads an attribute of 32 bits in the host's order.
func number(value []byte) int {
	if len(value) < 4 {
		return 0
	}
	return int(int32(nl.NativeEndian().Uint32(value)))
}

// indexOf reads the interface that an address message is about.
func indexOf(m syscall.NetlinkMessage) int {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return 0
	}
	return int(nl.DeserializeIfAddrmsg(m.Data).Index)
}

// ofLinkAlone reports whether the address that a message is about is valid on its link only.
func ofLinkAlone(m syscall.NetlinkMessage) bool {
	return len(m.Data) >= unix.SizeofIfAddrmsg && nl.DeserializeIfAddrmsg(m.Data).Scope == unix.RT_SCOPE_LINK
}
