package link

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/spec"
)

// noPackets stands for the socket that we were refused.
const noPackets = -1

// openPackets opens the socket for announcements, which receives nothing. It takes
// CAP_NET_RAW. Who lacks it goes without: neighbours find out for themselves, late.
func openPackets() int {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return noPackets
	}
	return fd
}

// introduce has everybody on a bridge forget who had an endpoint's addresses before.
// Engines up to 27 announce nothing, and later ones announce 0.0.0.0 where the IPAM is
// a remote one. No failure of it is one of the endpoint's.
//
// It is sent out of the bridge and not by the pair: the bridge does not learn from what
// the host sends, so a container is never taken to be where it is not.
func (p *pass) introduce(o object) {
	if o.veth == nil {
		return
	}
	bridge, err := p.scene.find(o.veth.Bridge)
	if err != nil || bridge == nil {
		return
	}
	for _, a := range o.addresses {
		_ = p.kernel.routes.NeighDel(&netlink.Neigh{LinkIndex: bridge.index, IP: net.IP(a.AsSlice())})
		if p.kernel.packets != noPackets {
			to := &unix.SockaddrLinklayer{Ifindex: bridge.index}
			_ = unix.Sendto(p.kernel.packets, announcement(o.veth.MAC, a, host), 0, to)
		}
	}
}

// manyHealed is from how many ports of one bridge on each is no longer introduced: what one
// says all others hear, and whoever asked in vain asks again after a second by himself.
const manyHealed = 32

// heal notes that a bridge may carry what it did not.
func (p *pass) heal(bridge string) {
	if p.healed == nil {
		p.healed = map[string]int{}
	}
	p.healed[bridge]++
}

// reintroduce tells of an endpoint whose port was mended: whoever asked for it, or was asked
// by it, while nothing passed would wait for a second to ask again.
func (p *pass) reintroduce(o object) {
	p.heal(o.veth.Bridge)
	if p.healed[o.veth.Bridge] <= manyHealed {
		p.introduce(o)
	}
}

// announceGateways tells the containers on bridges that were mended where the host is.
func (p *pass) announceGateways() {
	for name := range p.healed {
		d, err := p.scene.find(name)
		o, _ := p.kernel.planFor(name)
		b := o.bridge
		if err != nil || d == nil || b == nil || p.kernel.packets == noPackets {
			continue
		}
		for _, a := range b.Addresses {
			_ = unix.Sendto(p.kernel.packets, announcement(spec.MAC(d.mac), a.Addr(), router), 0, &unix.SockaddrLinklayer{Ifindex: d.index})
		}
	}
}

// announcement is the frame by which a host says that an address is its own: an ARP
// announcement (RFC 5227, section 2.3) or an unsolicited neighbour advertisement that
// overrides what is known (RFC 4861, section 7.2.6).
func announcement(mac spec.MAC, a netip.Addr, by role) []byte {
	if a.Is4() {
		return arpAnnouncement(mac, a)
	}
	return neighbourAdvertisement(mac, a, by)
}

// role is what a neighbour advertisement says of whom it is about: flags of RFC 4861,
// section 4.4. Whoever is a router and does not say so is taken for one no more.
type role byte

const (
	host   role = 0
	router role = 0x80
)

func ethernet(to, from spec.MAC, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(append(to[:], from[:]...), protocol)
}

func arpAnnouncement(mac spec.MAC, a netip.Addr) []byte {
	// Ethernet, IPv4, their lengths, and a request, which also those heed who await no
	// answer.
	const request = "\x00\x01\x08\x00\x06\x04\x00\x01"
	f := ethernet(spec.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	f = append(f, request...)
	f = append(append(f, mac[:]...), a.AsSlice()...)
	f = append(f, make([]byte, len(mac))...)
	return append(f, a.AsSlice()...)
}

func neighbourAdvertisement(mac spec.MAC, a netip.Addr, by role) []byte {
	const advertisement, override, targetMAC = 136, 0x20, 2
	allNodes := netip.IPv6LinkLocalAllNodes()
	body := append([]byte{advertisement, 0, 0, 0, override | byte(by), 0, 0, 0}, a.AsSlice()...)
	body = append(append(body, targetMAC, 1), mac[:]...)

	// The pseudo header of the checksum: addresses, length, next header.
	pseudo := append(a.AsSlice(), allNodes.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))

	// Hop limit 255 shows that no router has passed it on; any other is ignored.
	f := ethernet(spec.MAC{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 6<<4, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, 255)
	f = append(append(f, a.AsSlice()...), allNodes.AsSlice()...)
	return append(f, body...)
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) > 0; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
