// Package enginetest has what tests need that deal with an engine.Engine: a host
// and a store in memory that behave as the real ones must, and can be told to fail.
// It has nothing for the product itself.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/tree"
)

var (
	_ engine.Links    = (*Host)(nil)
	_ engine.Observer = (*Host)(nil)
)

// Host is one layer of a host in memory. It has an object for every bridge and
// every veth pair, whose text says all that the plan says of it.
type Host struct {
	mu      sync.Mutex
	facts   plan.Host
	objects map[string]object // by name, e.g. link dbr3f2a9c0d11ee
	broken  map[string]error  // by name
	err     error
	routes  map[string]netip.Addr // gateways by sandbox
	bound   map[string]bool       // sandboxes
	writes  int
	looks   int
}

type object struct {
	owner plan.Owner
	text  string
	// joined pairs are not made again: their sandbox is gone.
	joined bool
}

// NewHost makes an empty host with IPv6.
func NewHost() *Host {
	return &Host{facts: plan.Host{IPv6: true}, objects: map[string]object{}, broken: map[string]error{}, routes: map[string]netip.Addr{}, bound: map[string]bool{}}
}

// Fail makes every later call fail without naming an object; nil mends it.
func (h *Host) Fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

// Break makes it impossible to write one object; nil mends it.
func (h *Host) Break(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken[name] = err
	if err == nil {
		delete(h.broken, name)
	}
}

// Delete takes an object away behind everybody's back.
func (h *Host) Delete(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.objects, name)
}

// Put adds an object behind everybody's back.
func (h *Host) Put(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects[name] = object{text: "somebody else's"}
}

// Become changes what there is to see of the host besides us.
func (h *Host) Become(facts plan.Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.facts = facts
}

// GoesBy has the container of a sandbox go out by a gateway.
func (h *Host) GoesBy(sandbox string, gateway netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes[sandbox] = gateway
}

// Gateway is what GoesBy said, the zero Addr if it said nothing.
func (h *Host) Gateway(sandbox string) (netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.routes[sandbox], h.err
}

// Bind makes a sandbox be there, or no longer.
func (h *Host) Bind(sandbox string, bound bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bound[sandbox] = bound
}

// Bound is what Bind said, false if it said nothing.
func (h *Host) Bound(sandbox string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bound[sandbox]
}

// Writes is how many objects were written or removed so far.
func (h *Host) Writes() int { return h.count(&h.writes) }

// Looks is how often the layer had to look at everything.
func (h *Host) Looks() int { return h.count(&h.looks) }

func (h *Host) count(n *int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *n
}

// String has a line for each object.
func (h *Host) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h.objects)) {
		fmt.Fprintf(&b, "%s %s\n", name, h.objects[name].text)
	}
	return b.String()
}

// Apply makes the objects match a plan.
func (h *Host) Apply(_ context.Context, have, want *plan.Plan) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	before := h.objects
	if have == nil {
		h.looks++
		have = &plan.Plan{}
	} else {
		before = map[string]object{}
	}
	put := map[string]object{}
	remove := maps.Clone(before)
	for c := range tree.Diff(have.Networks, want.Networks) {
		diff(c.Old, c.New, put, remove)
	}
	return h.change(put, remove)
}

// Mend makes the objects of one network match a plan, or removes those that are nobody's.
func (h *Host) Mend(_ context.Context, want *plan.Plan, network spec.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	put, remove := map[string]object{}, maps.Clone(h.objects)
	maps.DeleteFunc(remove, func(_ string, o object) bool { return o.owner.Network != network })
	if n, ok := want.Networks.Get(network); ok {
		diff(nil, n, put, nil)
	}
	return h.change(put, remove)
}

// change removes what does not stay. mu is held.
func (h *Host) change(put, remove map[string]object) error {
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(remove)) {
		if _, stays := put[name]; !stays {
			failed = append(failed, h.remove(name, remove[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(put)) {
		failed = append(failed, h.write(name, put[name]))
	}
	return errors.Join(failed...)
}

// diff collects the objects of a network that come and that go.
func diff(old, now *plan.Network, put, remove map[string]object) {
	if old == nil {
		old = &plan.Network{}
	}
	if now == nil {
		now = &plan.Network{}
	}
	if b := old.Bridge; b != nil && now.Bridge == nil {
		remove["link "+b.Name] = object{owner: plan.Owner{Network: old.ID}}
	}
	if b := now.Bridge; b != nil && (b != old.Bridge || now.Zone != old.Zone) {
		put["link "+b.Name] = object{owner: plan.Owner{Network: now.ID}, text: fmt.Sprintf("%+v %+v", *b, *now.Zone)}
	}
	for c := range tree.Diff(old.Endpoints, now.Endpoints) {
		if c.New == nil {
			remove["link "+c.Old.Veth.Name] = object{owner: plan.Owner{Network: old.ID, Endpoint: c.Key}}
			continue
		}
		text := fmt.Sprintf("%+v %v %v open %v", *c.New.Veth, c.New.Mappings, c.New.Ports, c.New.Open)
		put["link "+c.New.Veth.Name] = object{plan.Owner{Network: now.ID, Endpoint: c.Key}, text, c.New.Veth.Joined}
	}
}

func (h *Host) write(name string, o object) error {
	now, there := h.objects[name]
	if now == o || o.joined && !there {
		return nil
	}
	if err := h.broken[name]; err != nil {
		return &plan.ObjectError{Owner: o.owner, Object: name, Err: err}
	}
	h.writes++
	h.objects[name] = o
	return nil
}

func (h *Host) remove(name string, o object) error {
	if _, ok := h.objects[name]; !ok {
		return nil
	}
	if err := h.broken[name]; err != nil {
		return &plan.ObjectError{Owner: o.owner, Object: name, Err: err}
	}
	h.writes++
	delete(h.objects, name)
	return nil
}

// Check compares the objects with a plan.
func (h *Host) Check(_ context.Context, want *plan.Plan) ([]plan.Drift, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	planned := map[string]object{}
	for _, n := range want.Networks.All() {
		diff(nil, n, planned, nil)
	}
	both := maps.Clone(planned)
	maps.Copy(both, h.objects)
	var drift []plan.Drift
	for _, name := range slices.Sorted(maps.Keys(both)) {
		if want, got := planned[name], h.objects[name]; want != got {
			d := plan.Drift{Owner: both[name].owner, Object: name, Field: "text", Want: want.text, Got: got.text}
			if want.joined && got.text == "" {
				d.Field = plan.PairField
			}
			drift = append(drift, d)
		}
	}
	return drift, nil
}

// Remove removes every object.
func (h *Host) Remove(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.objects)
	return h.err
}

// Look tells what there is besides us.
func (h *Host) Look(context.Context) (*plan.Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	facts := h.facts
	return &facts, h.err
}

// Exists reports whether there is a link of this name. None has been in use.
func (h *Host) Exists(link string) (exists, used bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.objects["link "+link]
	return ok, false, h.err
}

var _ engine.Store = (*Store)(nil)

// Store is an engine.Store that forgets everything with its process. The zero
// value is empty and ready for use.
type Store struct {
	mu    sync.Mutex
	state spec.State
	err   error
}

// Fail makes every later call fail and do nothing; nil mends it.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Load returns what was saved last.
func (s *Store) Load() (spec.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.err
}

// Save replaces before, which must be what the Store holds, by after.
func (s *Store) Save(before, after spec.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if before.Networks != s.state.Networks {
		return errors.New("saved over a State that the store does not hold")
	}
	s.state = after
	return nil
}
