package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// get asks the engine itself: as the docker command would, which takes ten times as long
// to start as the engine to answer. What people type is for Docker and TryDocker.
func (e *Engine) get(path string) ([]byte, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", e.Outer("/run/docker.sock"))
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 2 * time.Minute}
	answer, err := client.Get("http://engine" + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", path, answer.Status, body)
	}
	return body, err
}

// Attachment is what the engine tells of a container on a network. What there is not is
// the zero address.
type Attachment struct {
	IPAddress         netip.Addr
	Gateway           netip.Addr
	GlobalIPv6Address netip.Addr
}

// container is what the engine tells of one.
type container struct {
	State struct {
		Pid int // as commands beside the engine see it, 0 if it does not run
	}
	NetworkSettings struct {
		Networks map[string]*Attachment
	}
}

func (e *Engine) container(name string) (c container, err error) {
	body, err := e.get("/containers/" + name + "/json")
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		return c, fmt.Errorf("container %s: %w", name, err)
	}
	return c, nil
}

// Attachment tells of a container on a network, by the names that the engine has for them.
func (e *Engine) Attachment(container, network string) Attachment {
	e.t.Helper()
	c, err := e.container(container)
	if err != nil {
		e.t.Fatal(err)
	}
	a := c.NetworkSettings.Networks[network]
	if a == nil {
		e.t.Fatalf("container %s is not on network %s", container, network)
	}
	return *a
}
