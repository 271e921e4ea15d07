package reach

import (
	"net/netip"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Traced judges by a plan's own trace.
func Traced(p *plan.Plan) Judge {
	return func(q Question) Outcome {
		in := q.Client.Bridge
		if in == "" && q.Client.Name != Host {
			in = "eth0"
		}
		fate := p.Trace(plan.Flow{In: in, Proto: q.Proto, From: q.From, To: q.To})
		server, port := owner(fate.Server.Addr()), fate.Server.Port()
		switch {
		case fate.Dropped:
			return Outcome{Verdict: hello.Drop, Why: fate.Why}
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
	for _, addrs := range host().Addresses {
		if (to.Bridge == "") == (addrs == machine(Host).IPv4 || addrs == machine(Host).IPv6) && addrs.Is4() == a.Is4() {
			return addrs
		}
	}
	return netip.Addr{}
}
