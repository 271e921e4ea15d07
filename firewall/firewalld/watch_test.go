package firewalld

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listening is a socket at which nobody answers.
func listening(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return socket
}

// watch watches until the test ends, and returns what is sent to at each wake, the
// first of which is for what happened before.
func (h *host) watch() <-chan struct{} {
	h.t.Helper()
	woken := make(chan struct{}, 16)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(ctx, func() { woken <- struct{}{} }) }()
	h.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	h.wakes("at first", woken)
	return woken
}

func (h *host) wakes(what string, woken <-chan struct{}) {
	h.t.Helper()
	select {
	case <-woken:
	case <-time.After(10 * time.Second):
		h.t.Fatalf("nobody is woken %s", what)
	}
}

func (h *host) reloaded() { h.signal(":1.7", path, busName+".Reloaded") }

func (h *host) removed(name string) {
	h.signal(":1.7", path, busName+".zone.InterfaceRemoved", ownZone, name)
}

func TestWatchWakesWhenBindingsMayBeLost(t *testing.T) {
	h := newHost(t)
	h.apply(nil, with("dbr1"))
	woken := h.watch()
	h.reloaded()
	h.wakes("by a reload", woken)
	h.signal("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.NameOwnerChanged", busName, "", ":1.8")
	h.wakes("by a start", woken)
	h.removed("dbr1")
	h.wakes("when somebody unbinds a bridge", woken)

	// What is none of our business wakes nobody: signals come in their order.
	h.removed("eth0")
	h.apply(with("dbr1"), with())
	h.removed("dbr1")
	h.reloaded()
	h.wakes("by the reload", woken)
	if len(woken) > 0 {
		t.Error("woken by what we did, or by what others do with theirs")
	}
}

func TestWatchWakesWhenFirewalldAnswersAgain(t *testing.T) {
	h := newHost(t)
	h.impatient()
	woken := h.watch()
	h.hang()
	h.apply(nil, with("dbr1"))
	if len(woken) > 0 {
		t.Error("woken before it answers")
	}
	h.answer()
	h.wakes("by the answer", woken)
	h.are("what went wrong", h.apply(nil, with("dbr1")))
	h.are("bound", h.now(), "dbr1 drawbridge")
}

// TestASlowFirewalldIsToldInSlices as after a reload that lost the zones of many bridges:
// no request waits for all of it.
func TestASlowFirewalldIsToldInSlices(t *testing.T) {
	h := newHost(t)
	h.patience = 500 * time.Millisecond
	woken := h.watch()
	const answer = 50 * time.Millisecond
	h.change(func(f *fake) { f.slow = answer })
	var names, bound []string
	for i := range 16 {
		names = append(names, fmt.Sprintf("dbr%02d", i))
		bound = append(bound, names[i]+" "+ownZone)
	}
	slices := 1
	for said := h.apply(nil, with(names...)); len(said) > 0; said = h.apply(nil, with(names...)) {
		if !strings.Contains(said[0], "no answer from firewalld") {
			t.Fatalf("errors %q", said)
		}
		h.wakes("to go on", woken)
		slices++
	}
	h.are("bound", h.now(), bound...)
	if slices < 2 {
		t.Errorf("one conversation for %d answers of %v, with a patience of %v", len(names), answer, h.patience)
	}
}

func TestWatchOutlivesTheBus(t *testing.T) {
	h := newHost(t)
	h.pause = time.Millisecond
	woken := h.watch()
	h.change(func(f *fake) {
		for _, c := range f.conns {
			c.Close()
		}
	})
	h.wakes("by the new connection", woken)
}
