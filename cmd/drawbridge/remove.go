package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
	"github.com/drawbridge-net/drawbridge/firewall"
)

func (e *env) remove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove [NETWORK|ENDPOINT|SUBNET]",
		Short: "Take everything of Drawbridge's off this host, or what Docker has forgotten",
		Long: `Take everything of Drawbridge's off this host, and end the daemon.

Bridges, veths, firewall entries and sysctls go, and the host is left as it was
found. Networks and pools are forgotten. While Docker still has networks of
Drawbridge's, it is refused, unless forced.

With NETWORK, an ID or its beginning, only that network goes: Docker forgets a
network that it removes while no daemon is running, and does not say so again.
With ENDPOINT, an ID or its beginning, a container's place on a network goes, with
its address and its published ports: something may be left in it of a container
that Docker gave up. With SUBNET, e.g. 172.30.1.0/24, the addresses of a network
are given back that never came to be, because Docker was killed on the way to it.
All are named by drawbridge status. What Docker still has is refused, unless
forced.`,
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), notEmpty),
	}
	force := c.Flags().Bool("force", false, "also what Docker still has; its containers lose it")
	s := settings{sysctls: "/proc/sys", firewall: firewall.None, removing: true}
	c.Flags().Var(pathAt(&s.stateDir, "/var/lib/drawbridge"), "state-dir", "the state, if no daemon is running")
	c.Flags().Var(pathAt(&s.runDir, "/run/drawbridge"), "run-dir", "the state of this boot, if no daemon is running")
	e.dockerFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && strings.Contains(args[0], "/") {
			return e.removePool(c.Context(), args[0], *force)
		}
		if len(args) == 1 {
			return e.removeOne(c.Context(), args[0], *force)
		}
		err := e.client().Remove(c.Context(), *force)
		if errors.Is(err, admin.ErrNotRunning) {
			err = removeWithoutDaemon(c.Context(), s, *force)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, "nothing of Drawbridge's is left on this host")
		return nil
	}
	return c
}

// notEmpty refuses what a script calls a network if it knows none: every ID begins so.
func notEmpty(_ *cobra.Command, args []string) error {
	if slices.Contains(args, "") {
		return errors.New("\"\" is neither network, endpoint nor subnet: want an ID or its beginning, or e.g. 172.30.0.0/24")
	}
	return nil
}

// removeOne removes the network or the endpoint whose ID begins so, if nobody misses it.
func (e *env) removeOne(ctx context.Context, prefix string, force bool) error {
	networks, endpoints, err := e.remembered(ctx)
	if err != nil {
		return err
	}
	networks = slices.DeleteFunc(networks, func(n admin.Network) bool { return !strings.HasPrefix(n.ID, prefix) })
	endpoints = slices.DeleteFunc(endpoints, func(ep admin.Endpoint) bool { return !strings.HasPrefix(ep.ID, prefix) })
	switch {
	case len(networks) == 1 && len(endpoints) == 0:
		return e.removeNetwork(ctx, networks[0].ID, force)
	case len(networks) == 0 && len(endpoints) == 1:
		return e.removeEndpoint(ctx, endpoints[0], force)
	}
	return fmt.Errorf("%.80q: %d networks and %d endpoints have an ID that begins so; drawbridge networks --json and ps --json show them", prefix, len(networks), len(endpoints))
}

func (e *env) removeNetwork(ctx context.Context, id string, force bool) error {
	known := askDocker(ctx, e.dockerSocket, []string{id})
	switch name := known.networks[id]; {
	case force:
	case known.silent:
		return fmt.Errorf("network %s: no engine answers on %s and tells whether it has it; name its --docker-socket, or use --force", short(id), e.dockerSocket)
	case name != "":
		return fmt.Errorf("network %s: Docker still has it: remove it with docker network rm %s, or use --force", short(id), name)
	}
	if err := e.client().RemoveNetwork(ctx, id); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "removed network %s\n", short(id))
	return nil
}

func (e *env) removeEndpoint(ctx context.Context, ep admin.Endpoint, force bool) error {
	known := askDocker(ctx, e.dockerSocket, []string{ep.Network})
	switch name := known.containers[ep.ID]; {
	case force:
	case known.silent:
		return fmt.Errorf("endpoint %s: no engine answers on %s and tells whether it has it; name its --docker-socket, or use --force", short(ep.ID), e.dockerSocket)
	case name != "":
		return fmt.Errorf("endpoint %s: Docker still has it: docker network disconnect %s %s, or use --force", short(ep.ID), known.networks[ep.Network], name)
	}
	if err := e.client().RemoveEndpoint(ctx, ep.Network, ep.ID); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "removed endpoint %s\n", short(ep.ID))
	return nil
}

// removePool gives the addresses of a subnet back, if nobody misses them.
func (e *env) removePool(ctx context.Context, subnet string, force bool) error {
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil {
		return fmt.Errorf("subnet %.80q: want e.g. 172.30.0.0/24", subnet)
	}
	all, err := listDocker(ctx, e.dockerSocket)
	switch name := owner(all, prefix.Masked().String()); {
	case force:
	case err != nil:
		return fmt.Errorf("subnet %s: no engine answers on %s and tells whether it has it; name its --docker-socket, or use --force", prefix, e.dockerSocket)
	case name != "":
		return fmt.Errorf("subnet %s: Docker still has it: remove it with docker network rm %s, or use --force", prefix, name)
	}
	if err := e.client().RemovePool(ctx, prefix.Masked()); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "gave subnet %s back\n", prefix.Masked())
	return nil
}

// removeWithoutDaemon does what a daemon would do, also on a host where none could start.
func removeWithoutDaemon(ctx context.Context, s settings, force bool) error {
	if err := checkPrivilege(); err != nil {
		return err
	}
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	d, err := assemble(ctx, s, silent)
	if err != nil {
		return err
	}
	defer d.close()
	return (&admin.Server{Engine: d.engine, Pools: d.pools, Log: silent, Forget: d.store.Discard}).Remove(ctx, force)
}
