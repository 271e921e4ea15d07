package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
)

func (e *env) remove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove",
		Short: "Take everything of Drawbridge's off this host, and end the daemon",
		Long: `Take everything of Drawbridge's off this host, and end the daemon.

Bridges, veths, firewall entries and sysctls go, and the host is left as it was
found. Networks and pools are forgotten. While Docker still has networks of
Drawbridge's, it is refused, unless forced.`,
		Args: cobra.NoArgs,
	}
	force := c.Flags().Bool("force", false, "also while Docker has networks of Drawbridge's; their containers lose them")
	stateDir := c.Flags().String("state-dir", "/var/lib/drawbridge", "the state, if no daemon is running")
	runDir := c.Flags().String("run-dir", "/run/drawbridge", "the state of this boot, if no daemon is running")
	c.RunE = func(c *cobra.Command, _ []string) error {
		err := e.client().Remove(c.Context(), *force)
		if errors.Is(err, admin.ErrNotRunning) {
			err = removeWithoutDaemon(c.Context(), *stateDir, *runDir, *force)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, "nothing of Drawbridge's is left on this host")
		return nil
	}
	return c
}

// removeWithoutDaemon does what a daemon would do.
func removeWithoutDaemon(ctx context.Context, stateDir, runDir string, force bool) error {
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	d, err := assemble(ctx, stateDir, runDir, silent)
	if err != nil {
		return err
	}
	defer d.close()
	return (&admin.Server{Engine: d.engine, Pools: d.pools, Log: silent, Forget: d.store.Discard}).Remove(ctx, force)
}
