package firewalltest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
	"github.com/drawbridge-net/drawbridge/test/scene"
)

// narrow is the MTU of a link on the way to a machine that is far, in bytes.
const narrow = 1300

// county is a town with a network of each gateway mode, and one that keeps its containers
// apart. Each has one container, 172.30.N.2 and fd00:30:N::2, whose port 90 is published
// as 8090+N or open.
type county struct {
	*town
	lands []land
}

// land is one of its networks.
type land struct {
	name      string
	container *lab.Host
	// outer are where the container's port 90 is for those outside: IPv4, then IPv6.
	outer []string
}

func newCounty(t testing.TB, b Backend) *county {
	t.Helper()
	w := scene.NewWorld(t)
	c := &county{}
	for i, n := range []spec.Network{
		{Masquerade: true},
		{Masquerade: true, Mode4: spec.Unprotected, Mode6: spec.Unprotected},
		{Mode4: spec.Routed, Mode6: spec.Routed},
		{Masquerade: true, Apart: true},
	} {
		number, letter := fmt.Sprint(i+1), fmt.Sprintf("%c", 'a'+i)
		addr4, addr6 := "172.30."+number+".2", "fd00:30:"+number+"::2"
		w.Network(number, n, "172.30."+number+".0/24", "fd00:30:"+number+"::/64")
		l := land{name: n.Mode4.String()}
		if n.Apart {
			l.name = "apart"
		}
		if n.Mode4 == spec.Routed {
			w.Open(number, letter, addr4+"/24", addr6+"/64", scene.TCP("", 0, 90, 1), scene.UDP("", 0, 90, 1))
			l.outer = []string{addr4 + ":90", "[" + addr6 + "]:90"}
		} else {
			port := uint16(8091 + i)
			w.Endpoint(number, letter, addr4+"/24", addr6+"/64", scene.TCP("", port, 90, 1), scene.UDP("", port, 90, 1))
			l.outer = []string{fmt.Sprintf("192.0.2.1:%d", port), fmt.Sprintf("[2001:db8:1::1]:%d", port)}
		}
		c.lands = append(c.lands, l)
	}
	c.town = settle(t, b, w)
	for i := range c.lands {
		number, letter := fmt.Sprint(i+1), fmt.Sprintf("%c", 'a'+i)
		c.lands[i].container = c.Behind(scene.Veth(letter), "c"+number, scene.Bridge(number), "172.30."+number+".2/24", "fd00:30:"+number+"::2/64")
		carry(t, c.lands[i].container)
		settled(t, c.lands[i].container, "172.30."+number+".1", "fd00:30:"+number+"::1")
	}
	c.Outside.Route(netip.MustParsePrefix("172.30.3.0/24"), c.Host) // that of mode routed
	c.Outside.Route(netip.MustParsePrefix("fd00:30:3::/64"), c.Host)
	carry(t, c.Outside)
	return c
}

// goFar makes a machine, 203.0.113.2 and 2001:db8:7::2, behind Outside and a narrow link.
// It could take more than that.
func (c *county) goFar() *lab.Host {
	far := lab.NewHost(c.T)
	c.Cable("far0", c.Outside, far)
	for i, h := range []*lab.Host{c.Outside, far} {
		h.Run("ip", "addr", "add", fmt.Sprintf("203.0.113.%d/24", i+1), "dev", "far0")
		h.Run("ip", "addr", "add", fmt.Sprintf("2001:db8:7::%d/64", i+1), "dev", "far0", "nodad")
		h.Run("ip", "link", "set", "far0", "up")
	}
	c.Outside.Run("ip", "link", "set", "far0", "mtu", fmt.Sprint(narrow))
	c.Outside.Set("net/ipv4/ip_forward", "1")
	c.Outside.Set("net/ipv6/conf/all/forwarding", "1")
	far.Run("ip", "route", "add", "default", "via", "203.0.113.1")
	far.Run("ip", "route", "add", "default", "via", "2001:db8:7::1")
	carry(c.T, far)
	settled(c.T, far, "203.0.113.1", "2001:db8:7::1")
	return far
}

// load is how much is carried, in bytes.
const load = 200_000

// carry has a machine send a load to each that connects to its port 90 by TCP and says
// so, or take one and say how much it was; and send back what comes by UDP.
func carry(t testing.TB, h *lab.Host) {
	t.Helper()
	var stream net.Listener
	var datagrams net.PacketConn
	var err error
	h.Do(func() {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		if stream, err = config.Listen(t.Context(), "tcp", "[::]:90"); err == nil {
			datagrams, err = config.ListenPacket(t.Context(), "udp", "[::]:90")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return // closed
			}
			serving.Go(func() { serveLoad(conn) })
		}
	})
	serving.Go(func() {
		data := make([]byte, 1<<16)
		for {
			n, from, err := datagrams.ReadFrom(data)
			if err != nil {
				return // closed
			}
			_, _ = datagrams.WriteTo(data[:n], from) // who is gone is gone
		}
	})
	t.Cleanup(func() {
		stream.Close()
		datagrams.Close()
		serving.Wait()
	})
}

// What a client of carry says first.
const (
	give = 'g'
	take = 't'
)

func serveLoad(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(2*hello.Patience)) != nil {
		return
	}
	word := make([]byte, 1)
	if _, err := io.ReadFull(conn, word); err != nil {
		return
	}
	// The client counts, and asserts.
	if word[0] == give {
		_, _ = conn.Write(make([]byte, load))
		return
	}
	if n, err := io.ReadFull(conn, make([]byte, load)); err == nil {
		_, _ = fmt.Fprint(conn, n)
	}
}

// download and upload carry a load between a client and the server at an address.
func download(client *lab.Host, address string) error {
	return ask(client, "tcp", address, func(conn net.Conn) error {
		_, err := conn.Write([]byte{give})
		n, err2 := io.Copy(io.Discard, conn)
		if err = errors.Join(err, err2); err == nil && n != load {
			err = fmt.Errorf("only %d bytes have come", n)
		}
		return err
	})
}

func upload(client *lab.Host, address string) error {
	return ask(client, "tcp", address, func(conn net.Conn) error {
		_, err := conn.Write(append([]byte{take}, make([]byte, load)...))
		said, err2 := io.ReadAll(conn)
		if err = errors.Join(err, err2); err == nil && string(said) != fmt.Sprint(load) {
			err = fmt.Errorf("only %q bytes have arrived", said)
		}
		return err
	})
}

// echo asks for a datagram to be sent back, and asks again: on a busy machine one may be
// lost.
func echo(client *lab.Host, address string, size int) (err error) {
	sent, got := []byte(strings.Repeat("fragment", size/8)), make([]byte, 1<<16)
	for deadline := time.Now().Add(hello.Patience); time.Now().Before(deadline); {
		err = ask(client, "udp", address, func(conn net.Conn) error {
			if err := conn.SetDeadline(time.Now().Add(hello.Impatience)); err != nil {
				return err
			}
			if _, err := conn.Write(sent); err != nil {
				return err
			}
			n, err := conn.Read(got)
			if err == nil && string(got[:n]) != string(sent) {
				err = fmt.Errorf("%d bytes have come back", n)
			}
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// ask connects and asks, with as much patience as a busy machine takes.
func ask(client *lab.Host, network, address string, question func(net.Conn) error) (err error) {
	client.Do(func() {
		dialer := net.Dialer{Timeout: hello.Patience}
		dialer.SetMultipathTCP(false)
		var conn net.Conn
		if conn, err = dialer.Dial(network, address); err != nil {
			return
		}
		defer conn.Close()
		if err = conn.SetDeadline(time.Now().Add(hello.Patience)); err == nil {
			err = question(conn)
		}
	})
	return err
}
