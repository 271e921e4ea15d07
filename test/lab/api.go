package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// ask speaks with the engine itself: as the docker command would, which takes ten times as
// long to start as the engine to answer. What people type is for Docker and TryDocker.
func (e *Engine) ask(method, path string, body io.Reader) ([]byte, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", e.Outer("/run/docker.sock"))
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 2 * time.Minute}
	request, err := http.NewRequest(method, "http://engine"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		var complaint struct{ Message string }
		_ = json.Unmarshal(content, &complaint) // what is no complaint is shown by its status
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, complaint.Message)
	}
	return content, err
}

func (e *Engine) get(path string) ([]byte, error) { return e.ask(http.MethodGet, path, nil) }

// list is the IDs of what the engine has at a path, networks that are there for others'
// configuration behind those others.
func (e *Engine) list(path string) []string {
	e.t.Helper()
	var found []struct {
		ID         string
		ConfigOnly bool
	}
	content, err := e.get(path)
	if err == nil {
		err = json.Unmarshal(content, &found)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	var ids, last []string
	for _, f := range found {
		if f.ConfigOnly {
			last = append(last, f.ID)
		} else {
			ids = append(ids, f.ID)
		}
	}
	return append(ids, last...)
}

// Networks returns the IDs of those that somebody created, in an order in which they can
// be removed.
func (e *Engine) Networks() []string {
	e.t.Helper()
	return e.list("/networks?filters=" + url.QueryEscape(`{"type":["custom"]}`))
}

// RemoveNetwork is docker network rm.
func (e *Engine) RemoveNetwork(network string) error {
	_, err := e.ask(http.MethodDelete, "/networks/"+network, nil)
	return err
}

// RemoveContainers ends and removes every container, all at once.
func (e *Engine) RemoveContainers() {
	e.t.Helper()
	ids := e.list("/containers/json?all=1")
	errs := make([]error, len(ids))
	var wait sync.WaitGroup
	for i, id := range ids {
		wait.Go(func() { _, errs[i] = e.ask(http.MethodDelete, "/containers/"+id+"?force=1", nil) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		e.t.Fatal(err)
	}
}

// WarmUp has the engine publish a port once.
func (e *Engine) WarmUp() {
	e.t.Helper()
	for _, request := range []struct{ method, path, body string }{
		{http.MethodPost, "/networks/create", `{"Name": "warm"}`},
		{http.MethodPost, "/containers/create?name=warm", `{"Image": "` + Image + `", "ExposedPorts": {"1/tcp": {}},
			"HostConfig": {"NetworkMode": "warm", "PortBindings": {"1/tcp": [{"HostPort": "1"}]}}}`},
		{http.MethodPost, "/containers/warm/start", ""},
		{http.MethodDelete, "/containers/warm?force=1", ""},
		{http.MethodDelete, "/networks/warm", ""},
	} {
		if _, err := e.ask(request.method, request.path, strings.NewReader(request.body)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// load makes an image out of an archive of its files.
func (e *Engine) load(archive []byte, image, change string) error {
	content, err := e.ask(http.MethodPost, "/images/create?fromSrc=-&repo="+image+"&changes="+url.QueryEscape(change), bytes.NewReader(archive))
	if err == nil && bytes.Contains(content, []byte("errorDetail")) { // said when all else was
		err = fmt.Errorf("load image %s: %s", image, content)
	}
	return err
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
