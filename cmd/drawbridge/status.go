package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (e *env) plan() *cobra.Command {
	return &cobra.Command{
		Use: "plan", Short: "Print what the host must have, as text", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := e.client().Plan(c.Context())
			if err == nil {
				fmt.Fprint(e.stdout, text)
			}
			return err
		},
	}
}

func (e *env) status() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show how daemon and host are; exits with 1 where the host is not as planned", Args: cobra.NoArgs,
	}
	asJSON := jsonFlag(c)
	e.dockerFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := e.client().Status(c.Context())
		if err != nil {
			return err
		}
		forgotten, err := e.forgotten(c.Context(), s)
		if err != nil {
			return err
		}
		s.Notices = append(s.Notices, forgotten...)
		if *asJSON {
			err = e.printJSON(s)
		} else {
			fmt.Fprintf(e.stdout, "drawbridge %s: %d networks, %d endpoints, %d pools\n", s.Version, s.Networks, s.Endpoints, s.Pools)
			fmt.Fprintf(e.stdout, "firewall: %s (%s)\n", s.Firewall.Backend, s.Firewall.Reason)
			for _, w := range s.Warnings {
				fmt.Fprintf(e.stdout, "warning: %s\n", w)
			}
			for _, n := range s.Notices {
				fmt.Fprintf(e.stdout, "note: %s\n", n)
			}
			for _, d := range s.Drift {
				fmt.Fprintf(e.stdout, "drift: %s\n", d)
			}
		}
		if err == nil && len(s.Drift) > 0 {
			return errTrouble
		}
		return err
	}
	return c
}

func (e *env) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintf(e.stdout, "drawbridge %s\n", version()) },
	}
}

// version is what the Go linker knows of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= keyLength {
			return info.Main.Version + " " + s.Value[:keyLength]
		}
	}
	return info.Main.Version
}

// keyLength is as much of a commit as tells it from others.
const keyLength = 12
