// Package driver speaks Docker's plugin protocol: it answers the engine's calls to
// NetworkDriver and IpamDriver and turns their text into values, here and nowhere
// else.
//
// It decides nothing: what may be is a rule of spec, who gets which address is
// ipam's, and what becomes of the host is the engine's. It never asks the Docker
// API anything, since the engine holds its locks while it waits for an answer.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/plan"
)

// drainTimeout is how long Serve waits at its end for requests under way.
const drainTimeout = 10 * time.Second

// Bounds of what stands before a request's body: engines send a few hundred bytes at once.
const (
	headerPatience = time.Minute
	maxHeader      = 64 << 10
)

// Server answers an engine. Create it with New.
type Server struct {
	engine *engine.Engine
	ipam   *ipam.Allocator
	// obstacles are what of the host a subnet may overlap.
	obstacles func() ([]plan.Obstacle, error)
	log       logrus.FieldLogger
	routes    map[string]handler // by path, e.g. /NetworkDriver.Join
	callers   callers
}

// New makes a Server over an Engine that was started. Obstacles tells what of the
// host a subnet may overlap.
func New(e *engine.Engine, a *ipam.Allocator, obstacles func() ([]plan.Obstacle, error), log logrus.FieldLogger) *Server {
	s := &Server{engine: e, ipam: a, obstacles: obstacles, log: log}
	s.routes = map[string]handler{
		"/Plugin.Activate": route(s.activate),

		"/NetworkDriver.GetCapabilities":             route(s.networkCapabilities),
		"/NetworkDriver.GwAllocCheck":                route(s.checkGatewayAllocation),
		"/NetworkDriver.CreateNetwork":               route(s.createNetwork),
		"/NetworkDriver.DeleteNetwork":               route(s.deleteNetwork),
		"/NetworkDriver.AllocateNetwork":             route(s.allocateNetwork),
		"/NetworkDriver.FreeNetwork":                 route(s.freeNetwork),
		"/NetworkDriver.CreateEndpoint":              route(s.createEndpoint),
		"/NetworkDriver.EndpointOperInfo":            route(s.endpointInfo),
		"/NetworkDriver.Join":                        route(s.join),
		"/NetworkDriver.Leave":                       route(s.leave),
		"/NetworkDriver.DeleteEndpoint":              route(s.deleteEndpoint),
		"/NetworkDriver.ProgramExternalConnectivity": route(s.publish),
		"/NetworkDriver.RevokeExternalConnectivity":  route(s.revoke),
		"/NetworkDriver.DiscoverNew":                 route(s.discover),
		"/NetworkDriver.DiscoverDelete":              route(s.discover),

		"/IpamDriver.GetCapabilities":         route(s.ipamCapabilities),
		"/IpamDriver.GetDefaultAddressSpaces": route(s.addressSpaces),
		"/IpamDriver.RequestPool":             route(s.requestPool),
		"/IpamDriver.ReleasePool":             route(s.releasePool),
		"/IpamDriver.RequestAddress":          route(s.requestAddress),
		"/IpamDriver.ReleaseAddress":          route(s.releaseAddress),
	}
	return s
}

// Handler is the Server without a socket.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Serve answers what comes in by a listener, until ctx ends. Then it lets requests
// under way finish.
//
// An idle connection is never closed: an engine that is about to use it would repeat
// the call with an empty body (pkg/plugins/client.go in github.com/moby/moby sends the
// drained one again). One that begins a request has to finish it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), ConnContext: withCaller,
		ReadHeaderTimeout: headerPatience, MaxHeaderBytes: maxHeader, ErrorLog: log.New(logWriter{s.log}, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := server.Shutdown(drain)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain %s: %w", l.Addr(), err), server.Close())
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// logWriter makes a line of the log of what net/http has to say.
type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Warn(excerpt(string(line), 512))
	return len(line), nil
}
