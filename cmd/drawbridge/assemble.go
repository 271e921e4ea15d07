package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/conntrack"
	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/firewall"
	"github.com/drawbridge-net/drawbridge/firewall/firewalld"
	"github.com/drawbridge-net/drawbridge/firewall/foreign"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/publish/proxy"
	"github.com/drawbridge-net/drawbridge/store"
)

// daemon is all the parts put together.
type daemon struct {
	ground   *net.UnixListener // nil where somebody else took the name
	store    *store.Store
	links    *link.Kernel
	firewall *firewall.Firewall
	foreign  *foreign.Rules
	zones    *firewalld.Zones
	tracking *conntrack.Table
	proxy    *proxy.Proxy
	ports    *publish.Ports
	engine   *engine.Engine
	pools    *ipam.Allocator
}

// assemble opens the state, makes the parts and brings the host to what was
// planned when the last daemon ended, unless all is to go.
func assemble(ctx context.Context, s settings, log logrus.FieldLogger) (_ *daemon, err error) {
	d := &daemon{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.ground, err = claim(ground); err != nil {
		return nil, err
	}
	// Ahead of all that leaves a trace: where there can be no firewall, nothing is.
	if d.firewall, err = firewall.Open(ctx, s.firewall); err != nil {
		return nil, err
	}
	log.Infof("firewall: %s", d.firewall)
	boot, err := link.BootID()
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(s.stateDir, s.runDir, boot); err != nil {
		return nil, err
	}
	if d.links, err = link.New(d.store.Settings(), s.sysctls); err != nil {
		return nil, err
	}
	if d.store.Anew() {
		d.links.Distrust()
	}
	d.foreign = &foreign.Rules{Warn: func(text string) { log.Warn(text) }}
	d.zones = firewalld.New(firewalld.Socket, d.store.Zones())
	d.zones.Warn = d.foreign.Warn
	d.tracking = conntrack.New()
	internal := &publish.Internal{}
	if d.proxy, err = proxy.New(log, proxy.Options{Refuse: internal.Has}); err != nil {
		return nil, err
	}
	d.ports = publish.New(d.proxy, internal)
	if d.pools, err = ipam.New(ipam.Config{Store: d.store.Pools(), Host: d.obstacles, Ranges: s.ranges}); err != nil {
		return nil, err
	}
	// Ports are held before anything is translated to them, drops stand before there is a
	// link, and then come the accepts in somebody else's chain, and its zones. What a drop
	// guards is withdrawn before the drop, and what another firewall left when all stands
	// that is to replace it. Whatever relies on the drops waits for them. Connections end
	// where nothing is left that could lead their packets anywhere.
	layers := engine.Layers{
		Ahead: []engine.Layer{
			conntrack.Clear{Table: d.tracking},
			firewalld.Unbind{Zones: d.zones},
			foreign.Withdraw{Rules: d.foreign},
			link.Restore{Kernel: d.links},
			d.ports, d.firewall,
		},
		Links: d.links,
		Behind: []engine.Layer{
			d.firewall.Behind("what another firewall left", firewall.Retired{Firewall: d.firewall}),
			d.firewall.Behind("accepts in FORWARD", foreign.Insert{Rules: d.foreign}),
			d.firewall.Behind("zones of firewalld", firewalld.Bind{Zones: d.zones}),
			d.tracking,
		},
	}
	d.engine = engine.New(d.store.Networks(), d, layers, d.ports, log)
	if s.removing {
		if err = d.engine.Load(ctx); err != nil {
			return nil, err
		}
		// So that it knows whose connections end. If it cannot, they end by themselves.
		_ = d.tracking.Apply(ctx, nil, d.engine.Now().Plan)
		return d, nil
	}
	if err = d.engine.Start(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// close lets go of files and sockets. Everything in the kernel stays.
func (d *daemon) close() {
	if d.tracking != nil {
		d.tracking.Close()
	}
	if d.firewall != nil {
		d.firewall.Close()
	}
	if d.links != nil {
		d.links.Close()
	}
	if d.store != nil {
		_ = d.store.Close()
	}
	if d.ground != nil {
		_ = d.ground.Close()
	}
}

// notices are what a person should know, now.
func (d *daemon) notices() []string {
	return slices.Concat(d.store.Notices(), d.links.Notices(), d.firewall.Notices(), d.tracking.Notices(), d.ports.Notices(d.engine.Now().Plan), d.waived())
}

// waived is what networks ask for and do not get for want of a firewall.
func (d *daemon) waived() []string {
	if !d.firewall.Absent() {
		return nil
	}
	all := []string{"there is no firewall of ours: published ports are served by a proxy, and servers see its address for all clients; " +
		"containers are not hidden behind the host's address, and whoever has a route to one reaches all its ports"}
	now := d.engine.Now()
	for _, n := range now.State.Networks.All() {
		for _, what := range now.Plan.Host.Waived(n) {
			all = append(all, fmt.Sprintf("network %s: %s", n.ID.Short(), what))
		}
	}
	return all
}

// warnings are the chains of others that drop what containers send or are sent, and the
// zones that reject it.
func (d *daemon) warnings() []string {
	return slices.Concat(d.zones.Warnings(), d.foreign.Warnings())
}

// Look is what an engine.Observer must tell: the bridges that engines' rules name
// decide which of the host's links are uplinks, and the firewall knows what it sees.
func (d *daemon) Look(ctx context.Context) (*plan.Host, error) {
	engines, drops, err := d.foreign.Look(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the firewall: %w", err)
	}
	host, err := d.links.Look(ctx, engines)
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	host.Drops = drops
	host.Blind, host.NoFirewall = d.firewall.Blind(host), d.firewall.Absent()
	return host, nil
}

// Exists reports whether the host has an interface of this name.
func (d *daemon) Exists(name string) (exists, used bool, err error) { return d.links.Exists(name) }

// Gateway is the IPv4 gateway of whoever is in a sandbox.
func (d *daemon) Gateway(sandbox string) (netip.Addr, error) { return link.Gateway(sandbox) }

// Bound reports whether a sandbox is seen to be there.
func (d *daemon) Bound(sandbox string) bool { return link.Bound(sandbox) }

// obstacles are what a chosen pool must keep away from. A network of ours may have
// its addresses from another IPAM and none of them on the host.
func (d *daemon) obstacles() ([]ipam.Obstacle, error) {
	found, err := d.links.Taken(context.Background(), d.engine.Leaving())
	all := make([]ipam.Obstacle, 0, len(found))
	for _, o := range found {
		all = append(all, ipam.Obstacle{Prefix: o.Prefix, What: o.What, Weak: o.Weak})
	}
	for _, n := range d.engine.Now().State.Networks.All() {
		for _, p := range n.Pools {
			all = append(all, ipam.Obstacle{Prefix: p.Prefix, What: fmt.Sprintf("subnet %s of network %s", p.Prefix, n.ID.Short())})
		}
	}
	return all, err
}

// foreignObstacles are what a subnet that a person names may overlap.
func (d *daemon) foreignObstacles() ([]plan.Obstacle, error) {
	return d.links.Foreign(context.Background())
}

// collectEvery is how often what a lost answer left behind is looked for.
const collectEvery = time.Minute

// collect takes back what the engine does not know that it has.
func (d *daemon) collect(ctx context.Context, log logrus.FieldLogger) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		got, err := d.pools.Collect(driver.Live{State: d.engine.Now().State})
		for _, p := range got.Pools {
			log.WithField("pool", p.ID).Warn("took back a pool whose network is gone")
		}
		for _, l := range got.Leases {
			log.WithFields(logrus.Fields{"pool": l.Pool, "address": l.Addr}).Warn("took back an address that no endpoint has")
		}
		if err != nil {
			log.WithError(err).Warn("take back pools and addresses")
		}
	}
}
