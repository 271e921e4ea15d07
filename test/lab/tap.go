package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// behindTap is where Drawbridge listens while a Tap has its place.
const behindTap = "/run/drawbridge/behind-tap.sock"

// Tap stands between the engine and Drawbridge. It passes everything on, and may hold
// an answer for as long as a test likes. Where no daemon is, the engine has an error
// at once, which leaves it with the same as a quarter of a minute of its own tries.
type Tap struct {
	engine *Engine
	client http.Client

	mu   sync.Mutex
	held map[string]*Held // by path
}

// Held is one answer that the engine waits for.
type Held struct {
	engine   *Engine
	method   string
	answered chan struct{} // closed when Drawbridge has answered
	release  chan struct{} // closed when the engine may know
}

// Tap puts a Tap in Drawbridge's place, which must be free. Each daemon that is
// started from then on listens behind it.
func (e *Engine) Tap() *Tap {
	e.t.Helper()
	t := &Tap{engine: e, held: map[string]*Held{}}
	var dialer net.Dialer
	t.client.Transport = &http.Transport{
		DisableKeepAlives: true, // the daemon may be another one the next time
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", e.Outer(behindTap))
		},
	}
	l, err := net.Listen("unix", e.Outer(PluginSocket))
	if err != nil {
		e.t.Fatalf("tap: %v", err)
	}
	server := &http.Server{Handler: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	e.t.Cleanup(func() {
		server.Close()
		<-done
	})
	e.tapped = true
	return t
}

// Hold has the engine wait for the next answer to a method, e.g. NetworkDriver.Join.
func (t *Tap) Hold(method string) *Held {
	h := &Held{engine: t.engine, method: method, answered: make(chan struct{}), release: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held["/"+method] = h
	return h
}

// Await waits until Drawbridge has answered and the engine does not know.
func (h *Held) Await() {
	h.engine.t.Helper()
	Until(h.engine.t, "the answer to "+h.method, func() error {
		select {
		case <-h.answered:
			return nil
		default:
			return fmt.Errorf("it has not been asked for")
		}
	})
}

// Release lets the engine know, if it lives.
func (h *Held) Release() { close(h.release) }

// ServeHTTP passes one request on.
func (t *Tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, answer := t.pass(r)
	t.mu.Lock()
	h := t.held[r.URL.Path]
	delete(t.held, r.URL.Path)
	t.mu.Unlock()
	if h != nil {
		close(h.answered)
		<-h.release
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer) // nobody may be there any more
}

func (t *Tap) pass(r *http.Request) (status int, answer []byte) {
	failed := func(err error) (int, []byte) {
		return http.StatusBadGateway, fmt.Appendf(nil, `{"Err":%q}`, err.Error())
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return failed(err)
	}
	res, err := t.client.Post("http://drawbridge"+r.URL.Path, "", bytes.NewReader(body))
	if err != nil {
		return failed(err)
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		return failed(err)
	}
	return res.StatusCode, answer
}
