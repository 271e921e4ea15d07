package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// names are what an engine calls the things that the daemon knows by ID only.
type names struct {
	networks   map[string]string // network ID -> name
	containers map[string]string // endpoint ID -> container name
	silent     bool              // no engine answered, so a name that is missing tells nothing
}

// dockerTimeout is long for a local socket, and short for a person who waits.
const dockerTimeout = 3 * time.Second

// askDocker asks an engine for the names of the networks. Without an engine there
// are none, and IDs must do.
func askDocker(ctx context.Context, socket string, networks []string) names {
	found := names{networks: map[string]string{}, containers: map[string]string{}}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	client := dockerClient(socket)
	for _, id := range networks {
		if err := found.ask(ctx, client, id); err != nil {
			found.silent = true
			return found
		}
	}
	return found
}

func dockerClient(socket string) *http.Client {
	var dialer net.Dialer
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}}
}

// dockerNetwork is what an engine says of a network, whichever driver's it is.
type dockerNetwork struct {
	ID   string `json:"Id"`
	Name string
	// Driver is as it is installed, e.g. drawbridge, or drawbridge-net/drawbridge:latest.
	Driver string
	Scope  string // e.g. local
	IPAM   struct{ Config []struct{ Subnet string } }
}

// listDocker asks an engine for all its networks: GET /networks (Docker Engine API,
// version 1.24 and later).
func listDocker(ctx context.Context, socket string) (all []dockerNetwork, err error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/networks", nil)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	res, err := dockerClient(socket).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask docker: %s", res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	return all, nil
}

// owner is the name of the network that has this subnet, "" for none.
func owner(all []dockerNetwork, subnet string) string {
	for _, n := range all {
		for _, c := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Masked().String() == subnet {
				return n.Name
			}
		}
	}
	return ""
}

// ask takes the names of a network and of the containers on it.
func (n *names) ask(ctx context.Context, client *http.Client, id string) error {
	network, err := inspectDocker(ctx, client, id)
	if err != nil || network == nil {
		return err // one that this engine does not know: its ID must do
	}
	n.networks[id] = network.Name
	for _, c := range network.Containers {
		n.containers[c.EndpointID] = c.Name
	}
	return nil
}

// dockerMembers are who is on a network, by what an engine calls him: the ID of a
// container, or stalePrefix and the ID of an endpoint.
type dockerMembers struct {
	Name       string
	Containers map[string]struct{ Name, EndpointID string }
}

// stalePrefix is how an engine marks an endpoint in which no container is.
const stalePrefix = "ep-"

// inspectDocker asks for one network: GET /networks/{id} (Docker Engine API, version
// 1.24 and later). It returns nil for one that the engine does not have.
func inspectDocker(ctx context.Context, client *http.Client, id string) (*dockerMembers, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/networks/"+url.PathEscape(id), nil)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusNotFound:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("ask docker: %s", res.Status)
	}
	network := &dockerMembers{}
	if err := json.NewDecoder(res.Body).Decode(network); err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	return network, nil
}
