package reach

import (
	"net/netip"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Traced judges by a plan's own trace.
func (e Engine) Traced(p *plan.Plan) Judge {
	return func(q Question) Outcome {
		flow := plan.Flow{In: q.Client.Bridge, Proto: q.Proto, From: q.From, To: q.To}
		if flow.In == "" && q.Client.Name != Host {
			flow.In = "eth0"
		}
		if e.Rules && q.To.Port() == ByEngine && owner(q.To.Addr()).Name == Host {
			flow.To, flow.Translated = machine(D).port(q.To.Addr(), Published), true
		}
		fate := p.Trace(flow)
		server, port := owner(fate.Server.Addr()), fate.Server.Port()
		switch {
		case fate.Dropped:
			return Outcome{Verdict: hello.Drop, Why: fate.Why, Foreign: fate.Foreign}
		case server.Name == Host && port != Service && q.Proto != plan.Ping:
			return Outcome{Verdict: hello.Refuse}
		}
		client := fate.Client
		if !client.IsValid() {
			client = leaves(server, fate.Server.Addr())
		}
		if server.Name == Outside && owner(client).Bridge != "" {
			return Outcome{Verdict: hello.Drop} // the answer finds no way
		}
		return Outcome{Verdict: hello.Accept, Server: server.Name, Client: client}
	}
}

// port is one of a machine's, of the same family as another address.
func (m Machine) port(like netip.Addr, port uint16) netip.AddrPort {
	if like.Is4() {
		return netip.AddrPortFrom(m.IPv4, port)
	}
	return netip.AddrPortFrom(m.IPv6, port)
}

// owner is whose address it is; the host has more than one.
func owner(a netip.Addr) Machine {
	for _, m := range Machines() {
		if m.IPv4 == a || m.IPv6 == a {
			return m
		}
	}
	return machine(Host)
}

// leaves is the host's address on the interface that leads to a machine.
func leaves(to Machine, a netip.Addr) netip.Addr {
	for _, b := range Bridges() {
		for _, gateway := range b.Addresses {
			if b.Name == to.Bridge && gateway.Contains(a) {
				return gateway.Addr()
			}
		}
	}
	return machine(Host).port(a, 0).Addr()
}
