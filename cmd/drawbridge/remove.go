package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
	"github.com/drawbridge-net/drawbridge/firewall"
)

func (e *env) remove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove [NETWORK|SUBNET]",
		Short: "Take everything of Drawbridge's off this host, or one network that Docker has forgotten",
		Long: `Take everything of Drawbridge's off this host, and end the daemon.

Bridges, veths, firewall entries and sysctls go, and the host is left as it was
found. Networks and pools are forgotten. While Docker still has networks of
Drawbridge's, it is refused, unless forced.

With NETWORK, an ID or its beginning, only that network goes: Docker forgets a
network that it removes while no daemon is running, and does not say so again.
With SUBNET, e.g. 172.30.1.0/24, the addresses of a network are given back that
never came to be, because Docker was killed on the way to it. Both are named by
drawbridge status. While Docker still has such a network, it is refused, unless
forced.`,
		Args: cobra.MaximumNArgs(1),
	}
	force := c.Flags().Bool("force", false, "also what Docker still has; its containers lose it")
	s := settings{sysctls: "/proc/sys", firewall: firewall.None, removing: true}
	c.Flags().StringVar(&s.stateDir, "state-dir", "/var/lib/drawbridge", "the state, if no daemon is running")
	c.Flags().StringVar(&s.runDir, "run-dir", "/run/drawbridge", "the state of this boot, if no daemon is running")
	e.dockerFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && strings.Contains(args[0], "/") {
			return e.removePool(c.Context(), args[0], *force)
		}
		if len(args) == 1 {
			return e.removeNetwork(c.Context(), args[0], *force)
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

// removeNetwork removes one network, if nobody misses it.
func (e *env) removeNetwork(ctx context.Context, prefix string, force bool) error {
	all, err := e.client().Networks(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, n := range all {
		if strings.HasPrefix(n.ID, prefix) {
			ids = append(ids, n.ID)
		}
	}
	if len(ids) != 1 {
		return fmt.Errorf("network %q: %d networks have an ID that begins so; drawbridge networks shows them", prefix, len(ids))
	}
	known := askDocker(ctx, e.dockerSocket, ids)
	switch name := known.networks[ids[0]]; {
	case force:
	case known.silent:
		return fmt.Errorf("network %s: no engine answers on %s and tells whether it has it; name its --docker-socket, or use --force", short(ids[0]), e.dockerSocket)
	case name != "":
		return fmt.Errorf("network %s: Docker still has it: remove it with docker network rm %s, or use --force", short(ids[0]), name)
	}
	if err := e.client().RemoveNetwork(ctx, ids[0]); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "removed network %s\n", short(ids[0]))
	return nil
}

// removePool gives the addresses of a subnet back, if nobody misses them.
func (e *env) removePool(ctx context.Context, subnet string, force bool) error {
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil {
		return fmt.Errorf("subnet %q: %w", subnet, err)
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
