package plan

import (
	"slices"

	"github.com/drawbridge-net/drawbridge/spec"
)

// planForwarding lets packets pass between our bridges and the uplinks without
// touching ip_forward: so an engine that starts after us finds it as it was, and
// decides on its own FORWARD policy as if we were not here.
func (p *Plan) planForwarding(state spec.State) {
	if p.Host.NoFirewall {
		return // nothing would keep the host from becoming a router
	}
	needs4, needs6 := false, false
	var open []string // bridges that a person named and that forward
	named := map[string]bool{}
	for _, n := range state.Networks.All() {
		named[n.Bridge] = true
		if closed(n) {
			continue
		}
		needs4, needs6 = needs4 || n.HasIPv4(), needs6 || n.HasIPv6()
		if n.Bridge != "" {
			open = append(open, n.Bridge)
		}
	}
	p.Guard4 = needs4 && !p.Host.Forwarding4
	p.Guard6 = needs6 && !p.Host.Forwarding6
	for _, name := range open {
		p.guard(HostLink{Name: name})
	}
	for _, h := range p.Host.Uplinks {
		u := p.uplink(h)
		if named[h.Name] { // the network's plan says what it forwards
			u.Settings = slices.DeleteFunc(u.Settings, func(s Setting) bool { return s.Name != acceptRA })
		} else {
			p.guard(h)
		}
		if !named[h.Name] || len(u.Settings) > 0 {
			p.Uplinks = append(p.Uplinks, u)
		}
	}
	if p.everywhere() {
		for _, h := range p.Host.Others {
			if !named[h.Name] {
				p.guardOther(h)
			}
		}
		p.Uplinks = append(p.Uplinks, Uplink{Name: Everywhere, Settings: []Setting{{6, "forwarding", 1}}})
	}
	slices.Sort(p.Guarded4)
	slices.Sort(p.Guarded6)
}

// everywhere reports whether all interfaces forward IPv6 because of us.
func (p *Plan) everywhere() bool { return p.Guard6 && !p.Host.ForceForwarding }

// guard guards an interface that we switch on, or would unless it forwarded before.
func (p *Plan) guard(h HostLink) {
	if p.switches4(h.Name) {
		p.Guarded4 = append(p.Guarded4, h.Name)
	}
	if p.switches6(h.Name) {
		p.Guarded6 = append(p.Guarded6, h.Name)
	}
	if h.Bridge && (p.Guard4 || p.Guard6) {
		p.Bridges = append(p.Bridges, h.Name)
	}
}

// guardOther guards an interface that only the switch of all interfaces switches on.
func (p *Plan) guardOther(h HostLink) {
	p.Guarded6 = append(p.Guarded6, h.Name)
	if h.Bridge {
		p.Bridges = append(p.Bridges, h.Name)
	}
}

// switches4 and switches6 report whether it is us who make an interface forward.
func (p *Plan) switches4(name string) bool {
	return p.Guard4 && !slices.Contains(p.Host.Routers4, name)
}

func (p *Plan) switches6(name string) bool {
	return p.Guard6 && !slices.Contains(p.Host.Routers6, name)
}

func (p *Plan) uplink(h HostLink) Uplink {
	u := Uplink{Name: h.Name}
	if p.switches4(h.Name) {
		u.Settings = append(u.Settings, Setting{4, "forwarding", 1})
	}
	switch {
	case p.everywhere() && h.AcceptRA:
		// A router ignores advertisements unless told otherwise, and this uplink
		// would lose its addresses and its default route.
		u.Settings = append(u.Settings, Setting{6, acceptRA, 2})
	case !p.everywhere() && p.switches6(h.Name):
		u.Settings = append(u.Settings, Setting{6, "force_forwarding", 1})
	}
	return u
}
