package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/admin"
)

// between is how long Docker and the daemon may differ because something is just being
// made or removed.
const between = time.Second

// forgotten names what Docker and the daemon do not both have, and what frees it: Docker
// may have removed something while it could not tell us, or given it up when it died, and
// files of ours may be lost. An engine that does not answer may have all of it.
func (e *env) forgotten(ctx context.Context, s admin.Status) ([]string, error) {
	first, err := e.differences(ctx, s)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(between):
	}
	second, err := e.differences(ctx, s)
	return slices.DeleteFunc(first, func(notice string) bool { return !slices.Contains(second, notice) }), err
}

// remembered is what the daemon has.
func (e *env) remembered(ctx context.Context) (networks []admin.Network, endpoints []admin.Endpoint, err error) {
	client := e.client()
	if networks, err = client.Networks(ctx); err == nil {
		endpoints, err = client.Endpoints(ctx)
	}
	return networks, endpoints, err
}

// differences are those of this moment; none where no engine answers.
func (e *env) differences(ctx context.Context, s admin.Status) (notices []string, err error) {
	networks, endpoints, err := e.remembered(ctx)
	if err != nil {
		return nil, err
	}
	known, err := listDocker(ctx, e.dockerSocket)
	if err != nil {
		return nil, nil
	}
	client := dockerClient(e.dockerSocket)
	for _, n := range networks {
		if !slices.ContainsFunc(known, func(d dockerNetwork) bool { return d.ID == n.ID }) {
			notices = append(notices, fmt.Sprintf("Docker has no network %s (%s): if no other engine has, drawbridge remove %[1]s",
				short(n.ID), strings.Join(n.Subnets, ", ")))
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
		members, err := inspectDocker(ctx, client, n.ID)
		cancel()
		if err != nil {
			return nil, nil
		}
		if members != nil {
			of := slices.DeleteFunc(slices.Clone(endpoints), func(ep admin.Endpoint) bool { return ep.Network != n.ID })
			notices = append(notices, strangers(members, of)...)
		}
	}
	for _, subnet := range s.LoosePools {
		if owner(known, subnet) == "" {
			notices = append(notices, fmt.Sprintf("Docker has no network with subnet %s, which was given away: if no other engine has, drawbridge remove %[1]s", subnet))
		}
	}
	for _, d := range known {
		if d.isOurs(s.Driver) && !slices.ContainsFunc(networks, func(n admin.Network) bool { return n.ID == d.ID }) {
			notices = append(notices, fmt.Sprintf("nothing is remembered of Docker's network %s: containers on it go on as they are, and no others can start; "+
				"take them off it, docker network rm %[1]s, and create it again", d.Name))
		}
	}
	return notices, nil
}

// isOurs reports whether a network of the driver of that name must be known to the daemon on
// this host: one of a swarm's is not before a container of this node's is on it.
func (d dockerNetwork) isOurs(driver string) bool {
	name, _, _ := strings.Cut(path.Base(d.Driver), ":")
	return name == driver && d.Scope == "local"
}

// strangers names endpoints of a network that either Docker has or the daemon.
func strangers(docker *dockerMembers, ours []admin.Endpoint) (notices []string) {
	theirs := map[string]bool{}
	for key, c := range docker.Containers {
		theirs[c.EndpointID] = true
		if slices.ContainsFunc(ours, func(ep admin.Endpoint) bool { return ep.ID == c.EndpointID }) {
			continue
		}
		text := fmt.Sprintf("nothing is remembered of container %s on network %s: it has no published ports there, and others may be given its address; docker restart %[1]s", c.Name, docker.Name)
		if strings.HasPrefix(key, stalePrefix) {
			text = fmt.Sprintf("Docker keeps an endpoint of %s on network %s, in which no container is: docker restart %[1]s if there is such a container, else docker network disconnect -f %[2]s %[1]s", c.Name, docker.Name)
		}
		notices = append(notices, text)
	}
	for _, ep := range ours {
		if !theirs[ep.ID] && !ep.Idle {
			notices = append(notices, fmt.Sprintf("endpoint %s (%s) of network %s is unknown to Docker, and somebody is in it: drawbridge remove %[1]s",
				short(ep.ID), strings.Join(ep.Addresses, ", "), docker.Name))
		}
	}
	slices.Sort(notices)
	return notices
}
