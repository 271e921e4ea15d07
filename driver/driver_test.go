package driver_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/engine"
	"github.com/drawbridge-net/drawbridge/engine/enginetest"
	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
	"github.com/drawbridge-net/drawbridge/plan"
)

// The IDs that tests use, as long as Docker's.
var (
	net1 = strings.Repeat("1a", 32)
	net2 = strings.Repeat("2b", 32)
	ep1  = strings.Repeat("e1", 32)
	ep2  = strings.Repeat("e2", 32)
	ep3  = strings.Repeat("e3", 32)
)

// rig is the whole driver over a host in memory.
type rig struct {
	t       *testing.T
	host    *enginetest.Host
	store   *enginetest.Store
	ports   *enginetest.Ports
	engine  *engine.Engine
	ipam    *ipam.Allocator
	log     *logtest.Hook
	logger  logrus.FieldLogger
	handler http.Handler
}

// onLink is a host with one address of its own and a tunnel behind which others are.
func (r *rig) onLink() ([]plan.Obstacle, error) {
	return []plan.Obstacle{
		{Prefix: netip.MustParsePrefix("192.168.7.0/24"), What: "address 192.168.7.5/24 of eth0"},
		{Prefix: netip.MustParsePrefix("10.99.0.0/16"), What: "route 10.99.0.0/16 by tun0", Weak: true},
	}, nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	r := &rig{t: t, host: enginetest.NewHost(), store: &enginetest.Store{}, ports: &enginetest.Ports{}, log: hook, logger: log}
	var err error
	r.ipam, err = ipam.New(ipam.Config{
		Store:  &ipamtest.Memory{},
		Host:   func() ([]ipam.Obstacle, error) { return nil, nil },
		Ranges: []ipam.Range{{Prefix: netip.MustParsePrefix("10.101.0.0/16"), Size: 24}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	return r
}

// restart has another daemon take over.
func (r *rig) restart() {
	r.t.Helper()
	r.engine = engine.New(r.store, r.host, engine.Layers{Links: r.host}, r.ports, r.logger)
	if err := r.engine.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.handler = driver.New(r.engine, r.ipam, r.onLink, r.logger).Handler()
}

// onHost is what the host has once all that was answered is done.
func (r *rig) onHost() string {
	r.t.Helper()
	r.engine.Await(r.t.Context())
	return r.host.String()
}

// send posts a body and returns the status and the body of the answer.
func (r *rig) send(call, body string) (int, string) {
	r.t.Helper()
	req := httptest.NewRequestWithContext(context.Background(), http.MethodPost, call, strings.NewReader(body))
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	answer := strings.TrimSuffix(w.Body.String(), "\n")
	if !json.Valid([]byte(answer)) {
		r.t.Errorf("%s: answer is not JSON: %s", call, answer)
	}
	return w.Code, answer
}

// must sends what must succeed.
func (r *rig) must(call, body string) string {
	r.t.Helper()
	status, answer := r.send(call, body)
	if status != http.StatusOK || strings.Contains(answer, `"Err"`) {
		r.t.Errorf("%s %s: %d %s", call, body, status, answer)
	}
	return answer
}

// refused sends what must be refused with a text that holds each of want.
func (r *rig) refused(call, body string, want ...string) {
	r.t.Helper()
	_, answer := r.send(call, body)
	var texts struct{ Err, Error string }
	if err := json.Unmarshal([]byte(answer), &texts); err != nil {
		r.t.Fatalf("%s: %v", call, err)
	}
	if texts.Err == "" || texts.Err != texts.Error {
		r.t.Errorf("%s %.200s: want a refusal under both keys, got %s", call, body, answer)
	}
	for _, w := range want {
		if !strings.Contains(texts.Err, w) {
			r.t.Errorf("%s %.200s: refusal lacks %q: %s", call, body, w, texts.Err)
		}
	}
}
