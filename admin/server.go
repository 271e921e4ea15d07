package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Server answers the operator's questions.
type Server struct {
	Engine  *engine.Engine
	Pools   *ipam.Allocator
	Version string
	// Driver is what Docker calls us, as far as we know.
	Driver string
	// Firewall is the one that was chosen.
	Firewall Firewall
	// Notices are what was found at start, or is found now, and a person should know.
	Notices func() []string
	// Warnings are what keeps packets from containers, as last found.
	Warnings func() []string
	// Obstacles are what of the host a subnet may overlap.
	Obstacles func() ([]plan.Obstacle, error)
	Log       logrus.FieldLogger
	// Forget takes the files of the state off the host.
	Forget func() error
	// Removed is called after everything of ours was taken off the host.
	Removed func()
}

// Handler is the API: GET /v1/networks, /v1/endpoints, /v1/plan and /v1/status, and
// POST /v1/networks/{id}/remove, /v1/networks/{id}/endpoints/{endpoint}/remove,
// /v1/pools/remove and /v1/remove.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/networks", func(w http.ResponseWriter, _ *http.Request) {
		now := s.Engine.Now()
		s.answer(w, networks(now.State, now.Plan))
	})
	mux.HandleFunc("GET /v1/endpoints", func(w http.ResponseWriter, _ *http.Request) {
		now := s.Engine.Now()
		s.answer(w, endpoints(now.State, now.Plan, s.idle))
	})
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, s.Engine.Now().Plan.String())
	})
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/networks/{id}/remove", s.removeNetwork)
	mux.HandleFunc("POST /v1/networks/{id}/endpoints/{endpoint}/remove", s.removeEndpoint)
	mux.HandleFunc("POST /v1/pools/remove", s.removePool)
	mux.HandleFunc("POST /v1/remove", s.remove)
	return mux
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	drift, err := s.drift(r.Context())
	if err != nil {
		s.fail(w, http.StatusInternalServerError, fmt.Errorf("check the host: %w", err))
		return
	}
	obstacles, err := s.Obstacles()
	if err != nil {
		s.fail(w, http.StatusInternalServerError, fmt.Errorf("look at the host's addresses: %w", err))
		return
	}
	now := s.Engine.Now()
	pools := s.Pools.Pools()
	all := Status{
		Warnings: append([]string{}, s.Warnings()...), Firewall: s.Firewall,
		Version: s.Version, Driver: s.Driver, Networks: now.State.Networks.Len(), Pools: len(pools), LoosePools: loosePools(pools),
		Notices: notices(now.Plan, s.Notices()), Drift: merged(now.Drift, drift),
	}
	for _, p := range pools {
		all.Leases += len(p.Leases)
	}
	for _, n := range now.State.Networks.All() {
		all.Endpoints += n.Endpoints.Len()
		for _, o := range plan.Overlaps(n, obstacles) {
			all.Notices = append(all.Notices, fmt.Sprintf("network %s: %s: containers are reached in its place", n.ID.Short(), o))
		}
	}
	s.answer(w, all)
}

// passing is for how long the host may differ because it is being mended: an engine that
// starts, for one, writes its own rules anew.
const passing = 500 * time.Millisecond

// drift is where the host differs and still does so a moment later.
func (s *Server) drift(ctx context.Context) ([]plan.Drift, error) {
	first, err := s.Engine.Check(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(passing):
	}
	second, err := s.Engine.Check(ctx)
	return slices.DeleteFunc(second, func(d plan.Drift) bool {
		return !slices.ContainsFunc(first, func(f plan.Drift) bool { return f.Object == d.Object && f.Field == d.Field })
	}), err
}

// merged adds to what is seen now what is remembered and cannot be seen.
func merged(remembered, seen []plan.Drift) []plan.Drift {
	all := append([]plan.Drift{}, seen...)
	for _, d := range remembered {
		if !slices.ContainsFunc(seen, func(s plan.Drift) bool { return s.Object == d.Object }) {
			all = append(all, d)
		}
	}
	return all
}

func (s *Server) removeNetwork(w http.ResponseWriter, r *http.Request) {
	id, err := spec.ParseID(r.PathValue("id"))
	if err != nil {
		s.fail(w, http.StatusBadRequest, fmt.Errorf("remove network: %w", err))
		return
	}
	err = s.Engine.Do(r.Context(), id, func(state *spec.State) error {
		if _, err := state.Network(id); err != nil {
			return err
		}
		state.RemoveNetwork(id)
		return nil
	})
	if err == nil {
		err = s.forgetPools(func(p ipam.PoolStatus) bool { return p.Network == string(id) })
	}
	s.answerRemoval(w, err)
}

// idle reports whether nobody is seen to be in an endpoint.
func (s *Server) idle(ep *spec.Endpoint) bool {
	inUse, err := s.Engine.InUse(ep)
	return err == nil && !inUse
}

// removeEndpoint removes an endpoint, whoever is in it, and gives its addresses back.
func (s *Server) removeEndpoint(w http.ResponseWriter, r *http.Request) {
	network, err := spec.ParseID(r.PathValue("id"))
	id, idErr := spec.ParseID(r.PathValue("endpoint"))
	if err := errors.Join(err, idErr); err != nil {
		s.fail(w, http.StatusBadRequest, fmt.Errorf("remove endpoint: %w", err))
		return
	}
	var gone *spec.Endpoint
	err = s.Engine.Do(r.Context(), network, func(state *spec.State) (err error) {
		if _, gone, err = state.Endpoint(network, id); err == nil {
			state.RemoveEndpoint(network, id)
		}
		return err
	})
	if err == nil {
		err = s.forgetLeases(network, gone)
	}
	s.answerRemoval(w, err)
}

// forgetLeases gives the addresses of an endpoint that is gone back to those of its
// network's pools that are ours, unless another one has them by now.
func (s *Server) forgetLeases(network spec.ID, ep *spec.Endpoint) error {
	var failed []error
	state := s.Engine.Now().State
	for _, p := range s.Pools.Pools() {
		for _, a := range ep.Addresses() {
			_, _, taken := state.Holder(a.Addr())
			if !taken && p.Network == string(network) && p.Prefix.Contains(a.Addr()) {
				failed = append(failed, s.Pools.ReleaseAddress(p.ID, a.Addr()))
			}
		}
	}
	return errors.Join(failed...)
}

// removePool forgets a pool of which no network of ours was made.
func (s *Server) removePool(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("prefix")
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		s.fail(w, http.StatusBadRequest, fmt.Errorf("remove pool: prefix %.80q: %w: want e.g. 172.30.0.0/24", text, spec.ErrInvalid))
		return
	}
	loose := func(p ipam.PoolStatus) bool { return p.Prefix == prefix && p.Network == "" }
	err = fmt.Errorf("pool %s, of which no network of Drawbridge's was made: %w", prefix, spec.ErrNotFound)
	if slices.ContainsFunc(s.Pools.Pools(), loose) {
		err = s.forgetPools(loose)
	}
	s.answerRemoval(w, err)
}

func (s *Server) answerRemoval(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, spec.ErrNotFound):
		s.fail(w, http.StatusNotFound, err)
	case err != nil:
		s.fail(w, http.StatusInternalServerError, err)
	default:
		s.answer(w, "removed")
	}
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) {
	force, err := forced(r)
	if err == nil {
		err = s.Remove(context.WithoutCancel(r.Context()), force)
	}
	switch {
	case errors.Is(err, spec.ErrInvalid):
		s.fail(w, http.StatusBadRequest, err)
	case errors.Is(err, spec.ErrInUse):
		s.fail(w, http.StatusConflict, err)
	case err != nil:
		s.fail(w, http.StatusInternalServerError, err)
	default:
		s.answer(w, "removed")
		s.Removed()
	}
}

// forced reads the switch by which networks go even though Docker has them.
func forced(r *http.Request) (bool, error) {
	text := r.URL.Query().Get("force")
	if text == "" {
		return false, nil
	}
	force, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("remove: force %.80q: %w: want true or false", text, spec.ErrInvalid)
	}
	return force, nil
}

// Remove takes everything of ours off the host and forgets networks and pools.
// Unless forced, it refuses while there are networks: an engine would go on
// believing in them.
func (s *Server) Remove(ctx context.Context, force bool) error {
	if n := s.Engine.Now().State.Networks.Len(); n > 0 && !force {
		return fmt.Errorf("%d networks of Docker's: %w: remove them with docker network rm, or use --force", n, spec.ErrInUse)
	}
	if err := errors.Join(s.Engine.Remove(ctx), s.forgetPools(func(ipam.PoolStatus) bool { return true })); err != nil {
		return err // the files still tell what was found
	}
	return s.Forget()
}

func (s *Server) forgetPools(which func(ipam.PoolStatus) bool) error {
	var failed []error
	for _, p := range s.Pools.Pools() {
		if which(p) {
			failed = append(failed, s.Pools.ReleasePool(p.ID))
		}
	}
	return errors.Join(failed...)
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.Log.WithError(err).Debug("answer the operator")
	}
}

// failure is what an unsuccessful request is answered with.
type failure struct {
	Error string `json:"error"`
}

func (s *Server) fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(failure{err.Error()}); err != nil {
		s.Log.WithError(err).Debug("answer the operator")
	}
}
