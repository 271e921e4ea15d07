package firewalld

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

var (
	_ engine.Layer = Unbind{}
	_ engine.Layer = Bind{}
)

// host is a fake firewalld with our layers beside it.
type host struct {
	*fake
	*Zones
	notes memory
}

func newHost(t *testing.T) *host {
	t.Helper()
	f, notes := newFake(t), memory{}
	return &host{f, New(f.socket, notes), notes}
}

// impatient makes a firewalld that hangs cost the test little.
func (h *host) impatient() { h.patience = 100 * time.Millisecond }

// with is a plan that has these bridges.
func with(bridges ...string) *plan.Plan {
	p := &plan.Plan{}
	for _, name := range bridges {
		id := spec.ID("network of " + name)
		p.Networks = p.Networks.With(id, &plan.Network{ID: id, Bridge: &plan.Bridge{Name: name}})
	}
	return p
}

// apply has both layers do their part, as in the row of layers.
func (h *host) apply(have, want *plan.Plan) (said []string) {
	for _, l := range []engine.Layer{Unbind{h.Zones}, Bind{h.Zones}} {
		if err := l.Apply(context.Background(), have, want); err != nil {
			said = append(said, err.Error())
		}
	}
	return said
}

func (h *host) check(want *plan.Plan) (said []string) {
	h.t.Helper()
	for _, l := range []engine.Layer{Unbind{h.Zones}, Bind{h.Zones}} {
		drift, err := l.Check(context.Background(), want)
		if err != nil {
			h.t.Error(err)
		}
		for _, d := range drift {
			said = append(said, d.String())
		}
	}
	return said
}

func (h *host) are(what string, got []string, want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, got, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
		h.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestBridgesComeIntoOurZoneAndLeaveIt(t *testing.T) {
	h := newHost(t)
	h.are("what went wrong", h.apply(nil, with("dbr1", "dbr2")))
	h.are("bound", h.now(), "dbr1 drawbridge", "dbr2 drawbridge")
	h.asked()
	h.are("what went wrong the second time", h.apply(nil, with("dbr1", "dbr2")))
	h.are("what a second apply asks for", h.asked())
	h.are("drift", h.check(with("dbr1", "dbr2")))

	h.are("what went wrong", h.apply(with("dbr1", "dbr2"), with("dbr2")))
	h.are("bound", h.now(), "dbr2 drawbridge")
	if err := (Bind{h.Zones}).Remove(context.Background()); err != nil {
		t.Error(err)
	}
	h.are("bound after all is removed", h.now())
	if len(h.notes) > 0 {
		t.Errorf("notes %v, want none", h.notes)
	}
}

func TestRequestsThatTouchNoBridgeAskNothing(t *testing.T) {
	h := newHost(t)
	have := with("dbr1")
	h.apply(nil, have)
	before := h.connections()
	want := *have
	id := spec.ID("network of dbr1")
	want.Networks = want.Networks.With(id, &plan.Network{ID: id, Bridge: &plan.Bridge{Name: "dbr1", MTU: 1400}})
	h.apply(have, &want)
	if got := h.connections(); got != before {
		t.Errorf("%d connections to the bus, want none", got-before)
	}
}

func TestWithoutFirewalldNothingIsWrong(t *testing.T) {
	for what, leave := range map[string]func(*host){
		"there is no bus":           func(h *host) { h.Zones = New("/nonexistent/socket", h.notes) },
		"nobody is on it":           func(h *host) { h.change(func(f *fake) { f.away = true }) },
		"it dies while it is asked": func(h *host) { h.change(func(f *fake) { f.dies = "zone.addInterface" }) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			h.notes["dbr0"] = ownZone
			leave(h)
			h.are("what went wrong", h.apply(nil, with("dbr1")))
			h.are("drift", h.check(with("dbr1")))
			h.are("warnings", h.Warnings())
			if err := (Bind{h.Zones}).Remove(context.Background()); err != nil {
				t.Error(err)
			}
			if len(h.notes) > 0 {
				t.Errorf("notes %v, want none", h.notes)
			}
		})
	}
}

// TestWhatIsFoundDecides has a note and a binding of one bridge before us.
func TestWhatIsFoundDecides(t *testing.T) {
	type binding struct{ note, at string }
	for _, row := range []struct {
		name     string
		found    binding
		planned  bool
		zoneless bool // there is no zone drawbridge
		want     binding
	}{
		{name: "a bridge in no zone comes into ours", planned: true, want: binding{ownZone, ownZone}},
		{name: "without our zone it comes into the built-in one", planned: true, zoneless: true, want: binding{builtIn, builtIn}},
		{name: "after a reload, it comes back", found: binding{note: ownZone}, planned: true, want: binding{ownZone, ownZone}},
		{name: "once our zone is there, it comes into it", found: binding{builtIn, builtIn}, planned: true, want: binding{ownZone, ownZone}},
		{name: "what somebody bound to another zone stays there", found: binding{at: "work"}, planned: true, want: binding{at: "work"}},
		{name: "what somebody bound to ours stays there", found: binding{at: ownZone}, planned: true, want: binding{at: ownZone}},
		{name: "what somebody moved to another zone stays there", found: binding{ownZone, "work"}, planned: true, want: binding{at: "work"}},
		{name: "what we bound leaves with its network", found: binding{ownZone, ownZone}},
		{name: "even from a zone that we would not choose now", found: binding{builtIn, builtIn}},
		{name: "what somebody moved stays when its network leaves", found: binding{ownZone, "work"}, want: binding{at: "work"}},
		{name: "what somebody bound to ours stays when its network leaves", found: binding{at: ownZone}, want: binding{at: ownZone}},
		{name: "what a reload unbound is forgotten", found: binding{note: ownZone}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t)
			h.change(func(f *fake) {
				if row.zoneless {
					f.zones = []string{"public", builtIn}
				}
				if row.found.at != "" {
					f.bound["br0"] = row.found.at
				}
			})
			if row.found.note != "" {
				h.notes["br0"] = row.found.note
			}
			want := with()
			if row.planned {
				want = with("br0")
			}
			if differs := len(h.check(want)) > 0; differs != (row.found.at != row.want.at) {
				t.Errorf("drift is found: %t", differs)
			}
			h.are("what went wrong", h.apply(nil, want))
			if got := (binding{h.notes["br0"], h.bound["br0"]}); got != row.want {
				t.Errorf("note and zone are %q, want %q", got, row.want)
			}
			h.are("drift afterwards", h.check(want))
		})
	}
}

func TestWhoeverIsFasterWins(t *testing.T) {
	for _, row := range []struct {
		name, method string
		do           func(f *fake)
		want         []string
	}{
		{"he binds it to the same zone", "zone.addInterface", func(f *fake) { f.bound["dbr1"] = ownZone }, []string{"dbr1 drawbridge"}},
		{"he binds it to another zone", "zone.addInterface", func(f *fake) { f.bound["dbr1"] = "work" }, []string{"dbr1 work"}},
		{"he unbinds it", "zone.removeInterface", func(f *fake) { delete(f.bound, "dbr0") }, []string{"dbr1 drawbridge"}},
		{"he moves it to another zone", "zone.removeInterface", func(f *fake) { f.bound["dbr0"] = "work" }, []string{"dbr0 work", "dbr1 drawbridge"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t)
			h.notes["dbr0"] = ownZone
			h.change(func(f *fake) {
				f.bound["dbr0"] = ownZone
				f.faster[row.method] = func() { row.do(f) }
			})
			h.are("what went wrong", h.apply(nil, with("dbr1")))
			h.are("bound", h.now(), row.want...)
			h.are("drift", h.check(with("dbr1")))
		})
	}
}

func TestRefusalsAreReportedAndMadeGood(t *testing.T) {
	for _, row := range []struct{ name, method, text string }{
		{"the zone was removed meanwhile", "zone.addInterface", "INVALID_ZONE: drawbridge"},
		{"the interface is no good", "zone.addInterface", "INVALID_INTERFACE: dbr1"},
		{"panic mode", "zone.addInterface", "PANIC_MODE: panic mode is active"},
		{"it cannot say what it has", "zone.getActiveZones", "COMMAND_FAILED: nft"},
		{"the kernel refuses", "zone.removeInterface", "COMMAND_FAILED: nft"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t)
			h.notes["dbr0"] = ownZone
			h.change(func(f *fake) {
				f.bound["dbr0"] = ownZone
				f.refusals[row.method] = row.text
			})
			if said := fmt.Sprint(h.apply(nil, with("dbr1"))); !strings.Contains(said, row.method+": "+row.text) {
				t.Errorf("errors %s", said)
			}
			if len(h.check(with("dbr1"))) == 0 {
				t.Error("no drift")
			}
			h.change(func(f *fake) { clear(f.refusals) })
			h.are("what goes wrong once it refuses nothing", h.apply(nil, with("dbr1")))
			h.are("bound then", h.now(), "dbr1 drawbridge")
		})
	}
}

func TestErrorsFailNoRequest(t *testing.T) {
	h := newHost(t)
	h.change(func(f *fake) { f.refusals["zone.addInterface"] = "PANIC_MODE: panic mode is active" })
	err := (Bind{h.Zones}).Apply(context.Background(), nil, with("dbr1"))
	object := (*plan.ObjectError)(nil)
	if !errors.As(err, &object) || object.Owner != (plan.Owner{}) || object.Object != "firewalld interface dbr1" {
		t.Errorf("error %v, want one of the host's that names the interface", err)
	}
}

func TestAFirewalldThatHangsIsWaitedForOnce(t *testing.T) {
	h := newHost(t)
	h.impatient()
	h.hang()
	began := time.Now()
	said := fmt.Sprint(h.apply(nil, with("dbr1")))
	if !strings.Contains(said, "firewalld: no answer") {
		t.Errorf("errors %s", said)
	}
	if took := time.Since(began); took < h.patience {
		t.Errorf("waited %v, want at least %v", took, h.patience)
	}
	before := h.connections()
	for range 10 {
		h.apply(with("dbr1"), with("dbr1", "dbr2"))
		h.are("drift", h.check(with("dbr1")), "firewalld zones: want known, got no answer from firewalld over D-Bus")
	}
	if got := h.connections(); got != before {
		t.Errorf("asked %d times more, want not at all", got-before)
	}
}

// TestABusThatHangsIsWaitedForOnce has nobody at the other end of the socket.
func TestABusThatHangsIsWaitedForOnce(t *testing.T) {
	h := newHost(t)
	h.Zones = New(listening(t), h.notes)
	h.impatient()
	began := time.Now()
	h.are("errors", h.apply(nil, with("dbr1")),
		"firewalld: no answer from firewalld over D-Bus", "firewalld: no answer from firewalld over D-Bus")
	if took := time.Since(began); took < h.patience {
		t.Errorf("waited %v, want at least %v", took, h.patience)
	}
}

func TestWarningsNameWhatDoesNotWork(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*fake)
		want   []string // what each warning must contain
	}{
		{"nothing where zone and policy are there", func(*fake) {}, nil},
		{"no zone", func(f *fake) { f.zones = []string{builtIn} }, []string{"lacks the zone drawbridge"}},
		{"no policy", func(f *fake) { f.policies = []string{"other"} }, []string{"lacks the policy drawbridge-in"}},
		{"a firewalld without policies", func(f *fake) { f.policies = nil }, []string{"lacks the policy drawbridge-in"}},
		{"another zone", func(f *fake) { f.bound["br0"] = "work" }, []string{"bridge br0 is in firewalld's zone work"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t)
			var told []string
			h.Warn = func(text string) { told = append(told, text) }
			h.change(row.change)
			h.apply(nil, with("br0"))
			h.check(with("br0"))
			if got := h.Warnings(); !slices.EqualFunc(got, row.want, strings.Contains) {
				t.Errorf("warnings %q, want such with %q", got, row.want)
			}
			h.are("told, each once", told, h.Warnings()...)
			h.apply(with("br0"), with())
			h.are("warnings without a network", h.Warnings())
		})
	}
}
