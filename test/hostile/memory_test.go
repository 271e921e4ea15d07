package hostile_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/test/golden"
)

// memory is the driver over a host in memory.
type memory struct {
	*client
	host   *enginetest.Host
	store  *enginetest.Store
	engine *engine.Engine
	pools  *ipam.Allocator
	kept   *ipamtest.Memory
	log    *logtest.Hook
	logger logrus.FieldLogger
}

// newUnserved has nothing in it, and nobody serves it.
func newUnserved(t *testing.T) *memory {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	m := &memory{host: enginetest.NewHost(), store: &enginetest.Store{}, kept: &ipamtest.Memory{}, log: hook, logger: log}
	var err error
	m.pools, err = ipam.New(ipam.Config{Store: m.kept, Host: func() ([]ipam.Obstacle, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	m.engine = engine.New(m.store, m.host, engine.Layers{Links: m.host}, &enginetest.Ports{}, log)
	if err := m.engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// obstacles is a host with one address.
func obstacles() ([]plan.Obstacle, error) {
	return []plan.Obstacle{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), What: "address 192.0.2.1/24 of eth0"}}, nil
}

// newMemory has all that the vocabulary names, and is served on a socket.
func newMemory(t *testing.T) *memory {
	t.Helper()
	m := newUnserved(t)
	socket := filepath.Join(t.TempDir(), "drawbridge.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- driver.New(m.engine, m.pools, obstacles, m.logger).Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	m.client = &client{t, socket, vocabulary()}
	m.settle(func(string) {})
	return m
}

// picture is all that a request can change, as text.
func (m *memory) picture() string {
	var b strings.Builder
	m.engine.Await(m.t.Context())
	now := m.engine.Now()
	stored, err := m.store.Load()
	fmt.Fprintf(&b, "the State is saved: %t, %v; drift: %v\n", stored.Networks == now.State.Networks, err, now.Drift)
	say := func(what string, v any) {
		text, err := json.Marshal(v)
		fmt.Fprintf(&b, "%s %s %v\n", what, text, err)
	}
	for _, n := range now.State.Networks.All() {
		say("network", n)
		for _, ep := range n.Endpoints.All() {
			say("endpoint", ep)
		}
	}
	for _, p := range m.pools.Pools() {
		say("pool", p)
	}
	kept, err := m.kept.Load()
	say(fmt.Sprintf("kept %v", err), kept)
	b.WriteString(m.host.String())
	return b.String()
}

// TestHostileRequestsAreAnsweredPreciselyAndChangeNothing one after the other.
func TestHostileRequestsAreAnsweredPreciselyAndChangeNothing(t *testing.T) {
	m := newMemory(t)
	before, asked := m.picture(), 0
	for _, p := range pages(t, "kernel.txt") {
		t.Run(strings.TrimSuffix(filepath.Base(p.file), ".txt"), func(t *testing.T) {
			var answers []string
			for _, r := range p.all {
				m.t = t
				answer := m.ask(r)
				checkText(t, r.name, answer, 2200)
				answers = append(answers, answer)
				now := m.picture()
				if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(now, "\n")); diff != "" {
					t.Errorf("%s: %.500s\n%s\nchanged (-before +after):\n%s", r.name, r.body, answer, diff)
				}
				before = now
				asked++
			}
			golden.Equal(t, p.file, p.render(answers))
			m.live()
		})
	}
	m.t = t
	t.Logf("%d hostile requests", asked)
	if asked < 250 {
		t.Error("some are missing")
	}
	m.checkLog(t)
}

// TestHostileRequestsChangeNothingWhenManyComeAtOnce and are answered as if each were alone.
func TestHostileRequestsChangeNothingWhenManyComeAtOnce(t *testing.T) {
	m := newMemory(t)
	before := m.picture()
	manyAtOnce(t, m.client, pages(t, "kernel.txt"))
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(m.picture(), "\n")); diff != "" {
		t.Errorf("all together changed (-before +after):\n%s", diff)
	}
	m.live()
	m.checkLog(t)
}

// manyAtOnce sends all requests in a random order, eight at a time.
func manyAtOnce(t *testing.T, c *client, pages []*page) {
	t.Helper()
	var all []*request
	for _, p := range pages {
		all = append(all, p.all...)
	}
	seed := rand.Uint64()
	t.Logf("in the order of seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	next := make(chan *request)
	var eight sync.WaitGroup
	for range 8 {
		eight.Go(func() {
			for r := range next {
				if got := c.ask(r); got != r.want {
					t.Errorf("%s among others is answered\n%s\nwant\n%s", r.name, got, r.want)
				}
			}
		})
	}
	for _, r := range all {
		next <- r
	}
	close(next)
	eight.Wait()
}

// checkText fails unless a text is short, and nothing in it moves a cursor or begins
// another line.
func checkText(t *testing.T, what, text string, most int) {
	t.Helper()
	if len(text) > most {
		t.Errorf("%s: %d bytes: %.200s", what, len(text), text)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%s: a character that cannot be printed: %q", what, text)
	}
}

// checkLog looks at every line as it would stand in a file.
func (m *memory) checkLog(t *testing.T) {
	t.Helper()
	for _, entry := range m.log.AllEntries() {
		line, err := entry.String()
		if err != nil {
			t.Error(err)
		}
		checkText(t, "a line of the log", strings.TrimSuffix(line, "\n"), 8<<10)
		for key, value := range entry.Data {
			checkText(t, "the log's "+key, fmt.Sprint(value), 4<<10)
		}
		checkText(t, "a message of the log", entry.Message, 4<<10)
	}
}
