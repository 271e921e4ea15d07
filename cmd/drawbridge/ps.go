package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
)

// container is one line of ps.
type container struct {
	Container string `json:"container"` // its name, "" where no engine tells it
	Network   string `json:"network_name"`
	admin.Endpoint
}

func (e *env) ps() *cobra.Command {
	c := &cobra.Command{
		Use:   "ps",
		Short: "Show containers with their addresses and published ports",
		Long: `Show containers with their addresses and published ports.

No engine can show the ports that a network driver plugin publishes: the PORTS
column of docker ps and the answer of docker port stay empty. This shows them, in
the same notation. The kernel leads clients of a port to the container, save for ports
marked (proxy), which the daemon serves itself: those of IPv6 in front of a container
that has IPv4 alone, for one, and ports on ::1. It also serves who asks any other port
on ::1 or by a link-local address of IPv6, which is not marked.`,
		Args: cobra.NoArgs,
	}
	asJSON := jsonFlag(c)
	e.dockerFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		endpoints, err := e.client().Endpoints(c.Context())
		if err != nil {
			return err
		}
		var ids []string
		for _, ep := range endpoints {
			ids = append(ids, ep.Network)
		}
		names := askDocker(c.Context(), e.dockerSocket, slices.Compact(ids))
		list := []container{}
		for _, ep := range endpoints {
			list = append(list, container{names.containers[ep.ID], names.networks[ep.Network], ep})
		}
		slices.SortStableFunc(list, func(a, b container) int { return strings.Compare(a.Container, b.Container) })
		if *asJSON {
			return e.printJSON(list)
		}
		rows := [][]string{{"CONTAINER", "NETWORK", "ADDRESS", "PORTS"}}
		for _, l := range list {
			rows = append(rows, []string{
				orDash(l.Container), orID(l.Network, l.Endpoint.Network), strings.Join(l.Addresses, ", "), strings.Join(l.Ports, ", "),
			})
		}
		return e.printTable(rows)
	}
	return c
}

func (e *env) dockerFlag(c *cobra.Command) {
	c.Flags().Var(pathAt(&e.dockerSocket, "/var/run/docker.sock"), "docker-socket", "the engine's API socket, asked for names")
}

func orID(name, id string) string {
	if name == "" {
		return short(id)
	}
	return name
}
