package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
)

// namedNetwork is one line of networks.
type namedNetwork struct {
	Name string `json:"name"` // "" where no engine tells it
	admin.Network
}

func (e *env) networks() *cobra.Command {
	c := &cobra.Command{Use: "networks", Short: "Show the networks", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	e.dockerFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		networks, err := e.client().Networks(c.Context())
		if err != nil {
			return err
		}
		var ids []string
		for _, n := range networks {
			ids = append(ids, n.ID)
		}
		names := askDocker(c.Context(), e.dockerSocket, ids)
		list := []namedNetwork{}
		rows := [][]string{{"NETWORK", "BRIDGE", "SUBNETS", "MTU", "ENDPOINTS", "INTERNAL"}}
		for _, n := range networks {
			list = append(list, namedNetwork{names.networks[n.ID], n})
			rows = append(rows, []string{
				orID(names.networks[n.ID], n.ID), n.Bridge, strings.Join(n.Subnets, ", "),
				fmt.Sprint(n.MTU), fmt.Sprint(n.Endpoints), fmt.Sprint(n.Internal),
			})
		}
		if *asJSON {
			return e.printJSON(list)
		}
		return e.printTable(rows)
	}
	return c
}
