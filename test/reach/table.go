package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Ports on which containers and hosts answer. Of a container only 80 is published.
const (
	Published   = 80
	Unpublished = 81
	Service     = 22 // of everybody who is no container
)

// Question is asked by a machine, in one family.
type Question struct {
	Client Machine
	Proto  spec.Proto     // TCP or plan.Ping
	From   netip.Addr     // whom the kernel makes the client be
	To     netip.AddrPort // without a port for plan.Ping
}

// Outcome is what became of it.
type Outcome struct {
	Verdict hello.Verdict
	Why     string     // which rule dropped it; "" if none did
	Server  string     // who answered; "" for ping
	Client  netip.Addr // whom the server saw; the zero Addr for ping
	Foreign bool       // Why is no rule of ours
}

// Judge answers questions.
type Judge func(Question) Outcome

// target is a row of the table: what is asked for, in both families.
type target struct {
	text       string // e.g. host:8080
	proto      spec.Proto
	ipv4, ipv6 netip.Addr // the zero Addr where the family has no such thing
	port       uint16
	machine    string // whose own address it is; "" for one of the host's
	server     string // who is to answer
}

func own(name string, proto spec.Proto, port uint16) target {
	m := machine(name)
	text := "ping " + name
	if proto != plan.Ping {
		text = fmt.Sprintf("%s:%d", name, port)
	}
	return target{text, proto, m.IPv4, m.IPv6, port, name, name}
}

// onHost is a port of the host that leads to a container.
func onHost(port uint16, server string) target {
	h := machine(Host)
	return target{fmt.Sprintf("host:%d", port), spec.TCP, h.IPv4, h.IPv6, port, "", server}
}

// inward are what everybody asks of a container and of the host that publishes its port.
func inward() []target {
	all := []target{own(A, spec.TCP, Published), own(A, spec.TCP, Unpublished), own(A, plan.Ping, 0)}
	for _, port := range []uint16{Everywhere, OneAddress, Loopback} {
		all = append(all, onHost(port, A))
	}
	all = append(all, target{fmt.Sprintf("gateway:%d", Everywhere), spec.TCP, gateway4(), gateway6(), Everywhere, "", A})
	for _, port := range []uint16{Everywhere, Loopback} {
		all = append(all, target{fmt.Sprintf("127.0.0.1:%d", port), spec.TCP, netip.MustParseAddr("127.0.0.1"), netip.Addr{}, port, "", A})
	}
	return all
}

// outward are what a container asks for.
func outward() []target {
	var all []target
	for _, m := range Machines()[1:] {
		switch m.Name {
		case O, D:
			all = append(all, own(m.Name, spec.TCP, Published), own(m.Name, spec.TCP, Unpublished))
		case B:
			all = append(all, own(m.Name, spec.TCP, Unpublished))
		default:
			all = append(all, own(m.Name, spec.TCP, Service))
		}
		all = append(all, own(m.Name, plan.Ping, 0))
	}
	return append(all, onHost(ByOther, O), onHost(ByEngine, D))
}

// Table asks all questions at once and writes what became of them.
func (k Kind) Table(judge Judge) string {
	machines := Machines()
	rows := [][]string{{"to \\ from"}}
	for _, m := range machines {
		rows[0] = append(rows[0], m.Name)
	}
	var asking sync.WaitGroup
	add := func(t target, clients ...Machine) {
		row := make([]string, 1+len(clients))
		row[0] = t.text
		for i, client := range clients {
			asking.Go(func() { row[1+i] = k.cell(client, t, judge) })
		}
		rows = append(rows, row)
	}
	for _, t := range inward() {
		add(t, machines...)
	}
	for _, t := range outward() {
		add(t, machine(A))
	}
	asking.Wait()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // to a Builder, which takes all
	return b.String()
}

// cell is both families', which are one if they agree.
func (k Kind) cell(client Machine, t target, judge Judge) string {
	var ipv4, ipv6 string
	var both sync.WaitGroup
	both.Go(func() { ipv4 = k.one(client, t, t.ipv4, judge) })
	both.Go(func() { ipv6 = k.one(client, t, t.ipv6, judge) })
	both.Wait()
	if ipv4 == ipv6 || ipv6 == "" {
		return ipv4
	}
	return ipv4 + " | " + ipv6
}

func (k Kind) one(client Machine, t target, to netip.Addr, judge Judge) string {
	switch {
	case !to.IsValid():
		return ""
	case t.machine == client.Name, to.IsLoopback() && client.Name != Host, !k.hasRoute(client.Name, t):
		return "-"
	}
	return t.cell(client, judge(Question{client, t.proto, k.source(client, to), netip.AddrPortFrom(to, t.port)}))
}

// hasRoute reports whether the client knows a way, and its host one that leads on.
func (k Kind) hasRoute(client string, t target) bool {
	onWeb := func(name string) bool { return name == A || name == B }
	switch {
	case client == Outside:
		return !slices.Contains([]string{A, B, O, D}, t.machine) && t.ipv4 != gateway4()
	case k.Network.Mode4 == spec.Isolated:
		return onWeb(client) == onWeb(t.machine) && t.ipv4 != gateway4()
	}
	return true
}

// source is the address that a client's kernel gives it.
func (k Kind) source(client Machine, to netip.Addr) netip.Addr {
	if client.Name == Host {
		if to.IsLoopback() {
			return to
		}
		for _, gateway := range []netip.Prefix{netip.PrefixFrom(gateway4(), 24), netip.PrefixFrom(gateway6(), 64)} {
			if gateway.Contains(to) {
				return gateway.Addr()
			}
		}
	}
	if to.Is4() {
		return client.IPv4
	}
	return client.IPv6
}

// cell says in a word whom the server saw, or what else became of the question.
func (t target) cell(client Machine, o Outcome) string {
	switch {
	case o.Verdict != hello.Accept:
		return string(o.Verdict)
	case t.proto == plan.Ping:
		return "yes"
	case o.Server != t.server:
		return "answered by " + o.Server
	case o.Client == client.IPv4, o.Client == client.IPv6, client.Name == Host && owner(o.Client).Name == Host:
		return "yes"
	}
	names := map[string][]netip.Addr{
		"gateway": {gateway4(), gateway6()},
		"host":    {machine(Host).IPv4, machine(Host).IPv6},
	}
	for _, b := range Bridges() {
		for _, a := range b.Addresses {
			names[b.Name] = append(names[b.Name], a.Addr())
		}
	}
	for name, addrs := range names {
		if slices.Contains(addrs, o.Client) {
			return "as " + name
		}
	}
	return "as " + o.Client.String()
}

func gateway4() netip.Addr { return netip.MustParseAddr("172.30.1.1") }

func gateway6() netip.Addr { return netip.MustParseAddr("fd00:30:1::1") }
