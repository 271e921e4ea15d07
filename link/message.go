package link

import (
	"cmp"
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// request sends one message and returns the answers.
func (k *Kernel) request(kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	r := &nl.NetlinkRequest{Sockets: k.sockets}
	r.Len, r.Type, r.Flags = unix.SizeofNlMsghdr, uint16(kind), uint16(unix.NLM_F_REQUEST|flags)
	for _, d := range data {
		r.AddData(d)
	}
	return r.Execute(unix.NETLINK_ROUTE, 0)
}

// createBridge makes a bridge that is down. Its MTU is not given here: one that is
// set later is kept, while this one would follow the ports'.
func (k *Kernel) createBridge(name string) error {
	mac := birthMAC(name)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	return k.create(name, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]), info)
}

// createVeth makes a pair whose ends are down, the host's being a port already.
func (k *Kernel) createVeth(v *plan.Veth, bridge *device) error {
	mac, mtu := birthMAC(v.Name), cmp.Or(v.MTU, bridge.mtu)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Peer))
	peer.AddRtAttr(unix.IFLA_ADDRESS, v.MAC[:])
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	return k.create(v.Name, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]), info,
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge.index))))
}

func (k *Kernel) create(name string, attrs ...nl.NetlinkRequestData) error {
	all := append([]nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
	}, attrs...)
	_, err := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, all...)
	return err
}

// change alters attributes of a link.
func (k *Kernel) change(d *device, attrs ...nl.NetlinkRequestData) error {
	return k.changeAs(unix.RTM_SETLINK, header(d, unix.AF_UNSPEC), attrs...)
}

func (k *Kernel) changeAs(kind int, header *nl.IfInfomsg, attrs ...nl.NetlinkRequestData) error {
	_, err := k.request(kind, unix.NLM_F_ACK, append([]nl.NetlinkRequestData{header}, attrs...)...)
	return err
}

func header(d *device, family int) *nl.IfInfomsg {
	h := nl.NewIfInfomsg(family)
	h.Index = int32(d.index)
	return h
}

func (k *Kernel) setAlias(d *device, alias string) error {
	return k.change(d, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
}

func (k *Kernel) rename(d *device, name string) error {
	return k.change(d, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

func (k *Kernel) setMTU(d *device, mtu int) error {
	return k.change(d, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}

func (k *Kernel) setMAC(d *device, mac spec.MAC) error {
	return k.change(d, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]))
}

func (k *Kernel) setMaster(d *device, bridge int) error {
	return k.change(d, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
}

func (k *Kernel) setUp(d *device) error { return k.setFlags(d, unix.IFF_UP) }

func (k *Kernel) setDown(d *device) error { return k.setFlags(d, 0) }

func (k *Kernel) setFlags(d *device, up uint32) error {
	h := header(d, unix.AF_UNSPEC)
	h.Flags, h.Change = up, unix.IFF_UP
	return k.changeAs(unix.RTM_SETLINK, h)
}

// setHairpin is bridge link set dev IF hairpin on.
func (k *Kernel) setHairpin(d *device) error { return k.changePort(d, nl.IFLA_BRPORT_MODE, 1) }

// setIsolated is bridge link set dev IF isolated on, or off. A kernel that does not know
// the flag (before 4.18) passes over it, so it is read back.
func (k *Kernel) setIsolated(d *device, on bool) error {
	value := byte(0)
	if on {
		value = 1
	}
	if err := k.changePort(d, nl.IFLA_BRPORT_ISOLATED, value); err != nil {
		return err
	}
	now, err := k.device(d.name)
	switch {
	case err != nil:
		return err
	case now == nil:
		return unix.ENODEV
	case now.isolated != on:
		return unix.EOPNOTSUPP
	}
	return nil
}

// changePort speaks to the bridge about one of its ports.
func (k *Kernel) changePort(d *device, attr int, value byte) error {
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(attr, []byte{value})
	return k.changeAs(unix.RTM_SETLINK, header(d, unix.AF_BRIDGE), port)
}

func (k *Kernel) setSTPOff(d *device) error { return k.changeBridge(d, nl.IFLA_BR_STP_STATE) }

func (k *Kernel) setNoDelay(d *device) error { return k.changeBridge(d, nl.IFLA_BR_FORWARD_DELAY) }

// changeBridge sets one attribute of a bridge to 0.
func (k *Kernel) changeBridge(d *device, attr int) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attr, nl.Uint32Attr(0))
	return k.changeAs(unix.RTM_NEWLINK, header(d, unix.AF_UNSPEC), info)
}

func (k *Kernel) deleteLink(d *device) error {
	return k.changeAs(unix.RTM_DELLINK, header(d, unix.AF_UNSPEC))
}

// addAddress goes without duplicate address detection: it would keep a gateway of
// IPv6 from answering for a second or two, and nobody else may have it anyway.
func (k *Kernel) addAddress(index int, a netip.Prefix) error {
	addr := address(index, a)
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return k.routes.AddrAdd(nil, addr)
}

func (k *Kernel) deleteAddress(index int, a netip.Prefix) error {
	return k.routes.AddrDel(nil, address(index, a))
}

func address(index int, a netip.Prefix) *netlink.Addr {
	ip := a.Addr().AsSlice()
	return &netlink.Addr{LinkIndex: index, IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(a.Bits(), 8*len(ip))}}
}

// unlessGone is fine with what is gone already.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}
