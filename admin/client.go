package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"syscall"
)

// ErrNotRunning says that no daemon listens on the socket.
var ErrNotRunning = errors.New("no daemon is running")

// Client asks a daemon.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a Client for the daemon that listens on socket.
func NewClient(socket string) *Client {
	var dialer net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Networks are all networks, in the order of their IDs.
func (c *Client) Networks(ctx context.Context) (all []Network, err error) {
	err = c.do(ctx, http.MethodGet, "networks", &all)
	return all, err
}

// Endpoints are all endpoints, in the order of their networks' and their own IDs.
func (c *Client) Endpoints(ctx context.Context) (all []Endpoint, err error) {
	err = c.do(ctx, http.MethodGet, "endpoints", &all)
	return all, err
}

// Plan is what the host must have, as text.
func (c *Client) Plan(ctx context.Context) (text string, err error) {
	err = c.do(ctx, http.MethodGet, "plan", &text)
	return text, err
}

// Status is how the daemon and the host are.
func (c *Client) Status(ctx context.Context) (status Status, err error) {
	err = c.do(ctx, http.MethodGet, "status", &status)
	return status, err
}

// Remove has everything of ours taken off the host and the daemon end. Unless
// forced, it is refused while there are networks.
func (c *Client) Remove(ctx context.Context, force bool) error {
	path, done := "remove", ""
	if force {
		path = "remove?force=1"
	}
	return c.do(ctx, http.MethodPost, path, &done)
}

// RemoveNetwork has one network, by its whole ID, taken off the host with what is on
// it, and its addresses given back.
func (c *Client) RemoveNetwork(ctx context.Context, id string) error {
	done := ""
	return c.do(ctx, http.MethodPost, "networks/"+url.PathEscape(id)+"/remove", &done)
}

// RemoveEndpoint has one endpoint, by its whole ID, taken off the host, whoever is in it,
// and its addresses given back.
func (c *Client) RemoveEndpoint(ctx context.Context, network, id string) error {
	done := ""
	return c.do(ctx, http.MethodPost, "networks/"+url.PathEscape(network)+"/endpoints/"+url.PathEscape(id)+"/remove", &done)
}

// RemovePool has a pool forgotten of which no network of ours was made.
func (c *Client) RemovePool(ctx context.Context, prefix netip.Prefix) error {
	done := ""
	return c.do(ctx, http.MethodPost, "pools/remove?prefix="+url.QueryEscape(prefix.String()), &done)
}

func (c *Client) do(ctx context.Context, method, path string, to any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://drawbridge/v1/"+path, nil)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s", ErrNotRunning, c.socket)
	case err != nil:
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(body, &f) != nil || f.Error == "" {
			f.Error = res.Status
		}
		return errors.New(f.Error)
	}
	if err := json.Unmarshal(body, to); err != nil {
		return fmt.Errorf("the daemon's answer to %s: %w", path, err)
	}
	return nil
}
