package engine

import (
	"context"
	"net/netip"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// Evict removes an endpoint that nobody is in, for an engine that died may never say
// so, and reports whether it is gone.
func (e *Engine) Evict(ctx context.Context, network, id spec.ID) (bool, error) {
	state := e.Now().State
	_, ep, err := state.Endpoint(network, id)
	if err != nil {
		return true, nil
	}
	if inUse, err := e.InUse(ep); err != nil || inUse {
		return false, err
	}
	gone := true
	err = e.Do(ctx, network, func(s *spec.State) error {
		_, now, err := s.Endpoint(network, id)
		if gone = err != nil || now == ep; !gone {
			return nil // it has been heard of since we looked
		}
		s.RemoveEndpoint(network, id)
		return nil
	})
	return gone && err == nil, err
}

// EvictUnheard is Evict for what an endpoint has and somebody else would like to have,
// which proves nothing: it may merely not be in use yet. It goes if it was there before
// we were, or before an engine was that came after us, and nothing has been said of it
// since, as after a container's end that we were not told of.
func (e *Engine) EvictUnheard(ctx context.Context, network, id spec.ID) (bool, error) {
	_, found, err := e.found.Load().Endpoint(network, id)
	if err != nil {
		return false, nil
	}
	state := e.Now().State
	if _, now, err := state.Endpoint(network, id); err == nil && now != found {
		return false, nil
	}
	return e.Evict(ctx, network, id)
}

// InUse reports whether a container has one end of an endpoint's veth pair. It has
// not if it never joined, if the pair went with the container's namespace, if the engine
// has brought that end back and we were not there to be told more, or if the engine has
// given the sandbox up. The last leaves a pair where an engine from 28 on was killed
// before a container's first instruction: the process that should have become it is
// never ended, and has the pair.
func (e *Engine) InUse(ep *spec.Endpoint) (bool, error) {
	if ep.Sandbox == "" {
		return false, nil
	}
	if pair, _, err := e.observer.Exists(plan.VethName(ep)); err != nil || !pair {
		return false, err
	}
	if back, _, err := e.observer.Exists(plan.PeerName(ep)); err != nil || back {
		return false, err
	}
	return !e.sees.Load() || e.observer.Bound(ep.Sandbox), nil
}

// Joined says that an engine has a sandbox. One that has it mounted by then, where we
// see it, unmounts it when it gives it up.
func (e *Engine) Joined(sandbox string) {
	if e.observer.Bound(sandbox) {
		e.sees.Store(true)
	}
}

// Gateway is the IPv4 gateway of the container that an endpoint is in, whosever network
// that lies on; the zero Addr for none, and where it cannot be seen.
func (e *Engine) Gateway(ep *spec.Endpoint) (netip.Addr, error) {
	if ep.Sandbox == "" {
		return netip.Addr{}, nil
	}
	return e.observer.Gateway(ep.Sandbox)
}

// Restarted says that the engine which asks from now on is another one than before. An
// endpoint that nobody is in was for a container whose start or end died with it, and is
// gone when Restarted returns: what it had may be given to others then.
func (e *Engine) Restarted(ctx context.Context) {
	state := e.Now().State
	e.found.Store(&state)
	e.begin(e.dead(ctx, "that an engine left behind when it died", func(ep *spec.Endpoint) bool {
		inUse, err := e.InUse(ep)
		return err == nil && !inUse
	})...).Wait()
}

// dead are the burials of the endpoints that a look finds dead.
func (e *Engine) dead(ctx context.Context, why string, isDead func(*spec.Endpoint) bool) []func() {
	var all []func()
	for network, n := range e.Now().State.Networks.All() {
		for id, ep := range n.Endpoints.All() {
			if isDead(ep) {
				all = append(all, func() { e.bury(ctx, network, id, why) })
			}
		}
	}
	return all
}

// bury evicts an endpoint and says so in the log.
func (e *Engine) bury(ctx context.Context, network, id spec.ID, why string) {
	log := e.log.WithFields(logrus.Fields{"network": network, "endpoint": id})
	if gone, err := e.Evict(ctx, network, id); err != nil {
		log.WithError(err).Warnf("remove an endpoint %s", why)
	} else if gone {
		log.Infof("removed an endpoint %s", why)
	}
}

// buryTakenOut removes the endpoints whose containers the engine ended while we were away.
// It has brought their ends back, which were in use: one that a container is yet to get has
// never been.
func (e *Engine) buryTakenOut(ctx context.Context) {
	e.abreast(e.dead(ctx, "whose container ended while nobody listened", func(ep *spec.Endpoint) bool {
		if ep.Sandbox == "" {
			return false
		}
		back, used, err := e.observer.Exists(plan.PeerName(ep))
		return err == nil && back && used
	})...)
}

// idleLooks is how many looks in a row, half a minute apart, must find nobody in an
// endpoint. An engine tells of a container's end at once, unless we are away; but it
// lets minutes pass on a busy host between Join and the container's first process.
const idleLooks = 6

// buryForgotten removes the endpoints that the engine gave up while we were away: it
// does not say so again, and their ports and addresses would be held for ever. It
// takes how often each was found idle, and returns that for the next time. An
// endpoint that anything is said of becomes another one, and counts from nought.
func (e *Engine) buryForgotten(ctx context.Context, idle map[*spec.Endpoint]int) map[*spec.Endpoint]int {
	next := map[*spec.Endpoint]int{}
	e.abreast(e.dead(ctx, "that nobody has been in for minutes", func(ep *spec.Endpoint) bool {
		if inUse, err := e.InUse(ep); err != nil || inUse {
			return false
		}
		next[ep] = idle[ep] + 1
		return next[ep] >= idleLooks
	})...)
	return next
}
